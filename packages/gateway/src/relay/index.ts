export type { CallableServer, WorkspaceGrant } from "@keyward/secrets/reader";
export type { CallRequest, CallResponse } from "./call-exchange.ts";
export { type AnswerStart, type InProcessAnswer, type InProcessCall, RefusedByRelay } from "./in-process-call.ts";
export type { Relay, WorkspaceCall } from "./relay.ts";
export { namesAndValues } from "./request-headers.ts";
export { isOfAnswer } from "./server-observation.ts";
