// What an operator does once in each environment: makes the first keyring where APP_KEYS says that keys come from.
import { Keyring } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";

const source = process.env["APP_KEYS"];
const keys = await keysFrom(source);
if (keys.create === undefined) throw new Error("This source is filled by other means: see the README");
const ring = Keyring.generate();
await keys.create(ring);
console.log(`${ring}`);
