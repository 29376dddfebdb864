// An operator runs this once in each environment. It creates the first keyring at the source in APP_KEYS.
import { Keyring } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";

const source = process.env["APP_KEYS"];
const keys = await keysFrom(source);
if (keys.create === undefined)
  throw new Error(
    "Keyward cannot create a keyring at the source in APP_KEYS. Create an encryption key there yourself, as README.md shows for CI",
  );
const keyring = Keyring.generate();
await keys.create(keyring);
console.log(`${keyring}`);
