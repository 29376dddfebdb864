export {
  type FailingKeyProvider,
  type KeyProviderContractOptions,
  keyProviderContract,
  type OpenKeyProvider,
} from "./key-provider-contract.ts";
export type { TestRunner } from "./runner.ts";
export { storeContract } from "./store-contract.ts";
export type { OpenStore, StoreContractOptions, StoreException, StoreExpectations } from "./store-under-test.ts";
