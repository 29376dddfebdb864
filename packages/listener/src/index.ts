export { bearerToken } from "./bearer-token.ts";
export { Budgets } from "./budgets.ts";
export { ClientAddresses, networkOf } from "./client-address.ts";
export { type BrokenAnswer, type HttpListener, type HttpListenerOptions, startHttpListener } from "./http-listener.ts";
export { OwnNames, type RefusedName } from "./own-names.ts";
export { Places } from "./places.ts";
export { Readiness, type ReadinessOptions } from "./readiness.ts";
export { RefusedTokens } from "./refused-tokens.ts";
