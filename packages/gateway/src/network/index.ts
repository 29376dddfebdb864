export { isPublicAddress } from "./address-rules.ts";
export { type AllowedAddress, parseAllowedAddress } from "./allowed-address.ts";
export type { ResolveHost } from "./guarded-connector.ts";
export { type DispatchLimits, type GuardedDispatcherOptions, guardedDispatcher } from "./guarded-dispatcher.ts";
export { NetworkError, type NetworkErrorCode } from "./network-error.ts";
export { type DialledServer, ServerDispatchers, type ServerRequest } from "./server-dispatchers.ts";
