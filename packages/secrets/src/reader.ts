export type { Caller } from "./access/caller.ts";
export { newCallId } from "./audit/call-fields.ts";
export type { CallEnd, EndedCall, OpenCall } from "./calls/open-calls.ts";
export { type CallTarget, scopesWithout, type TokenScopes } from "./calls/token-scope.ts";
export type { CallableServer } from "./reader/callable-servers.ts";
export { RefusedCall } from "./reader/refused-call.ts";
export { SecretValue } from "./reader/secret-value.ts";
export {
  type CallGrant,
  type CallSecret,
  type NewSecrets,
  type SearchedCall,
  SecretsReader,
  type SecretsReaderOptions,
  type WorkspaceGrant,
} from "./reader/secrets-reader.ts";
export { SessionKey } from "./reader/session-key.ts";
