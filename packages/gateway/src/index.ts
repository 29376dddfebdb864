export { type GatewayOptions, type RunningGateway, startGateway } from "./gateway.ts";
export type { AllowedAddress } from "./network/index.ts";
export { GatewayProblem, type GatewayProblemCode, gatewayProblems } from "./problem.ts";
export { type AddressException, parseAddressException } from "./relay/address-exceptions.ts";
export type { CallLimits } from "./relay/relay-limits.ts";
export type { CalledServer, ServerState } from "./server-states.ts";
