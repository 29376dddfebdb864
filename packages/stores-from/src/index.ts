export { type NamedStore, type StoreFromOptions, storeFrom } from "./store-from.ts";
