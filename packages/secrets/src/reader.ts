export type { Caller } from "./access/caller.ts";
export { SecretValue } from "./reader/secret-value.ts";
export {
  type CallGrant,
  type CallSecret,
  SecretsReader,
  type SecretsReaderOptions,
} from "./reader/secrets-reader.ts";
