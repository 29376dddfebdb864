export { type KeysFromOptions, keysFrom } from "./keys-from.ts";
