import type { CallExplanation, RecordedCall } from "@keyward/admin/client";
import { millisecondsOf } from "../terminal/times.ts";
import { type InjectionResult, injectionResult } from "./service-results.ts";

/** A call as `--json` prints it. */
export interface CallResult {
  readonly callId: string;
  readonly atMs: number;
  readonly outcome: RecordedCall["outcome"];
  readonly owner: string;
  readonly role: RecordedCall["caller"]["role"];
  readonly tokenId: string;
  readonly address: string | null;
  readonly server: string;
  readonly method: string;
  readonly path: string;
  readonly mcpMethod: string | null;
  readonly tool: string | null;
  /** `null` if the caller left before the answer. */
  readonly status: number | null;
  /** `null` if the gateway neither refused nor aborted the call. */
  readonly reason: string | null;
  readonly durationMs: number;
  readonly requestBytes: number;
  readonly answerBytes: number;
  readonly secrets: readonly { readonly name: string; readonly revision: number }[];
  readonly redactions: number;
}

/** Returns a call as `--json` prints it. */
export function callResult({ callId, at, outcome, caller, secrets, ...call }: RecordedCall): CallResult {
  const { owner, role, tokenId, address } = caller;
  const { server, method, path, mcpMethod, tool, status, reason, durationMs } = call;
  const { requestBytes, answerBytes, redactions } = call;
  return {
    callId,
    atMs: millisecondsOf(at),
    outcome,
    owner,
    role,
    tokenId,
    address,
    server,
    method,
    path,
    mcpMethod,
    tool,
    status,
    reason,
    durationMs,
    requestBytes,
    answerBytes,
    secrets: secrets.map(({ name, revision }) => ({ name, revision })),
    redactions,
  };
}

/** Whether the gateway would refuse a call, and which secrets the call would use, as `--json` prints it. */
export interface ExplanationResult {
  readonly refusals: CallExplanation["refusals"];
  readonly token: CallExplanation["token"];
  readonly server: CallExplanation["server"];
  readonly secrets: readonly {
    readonly name: string;
    readonly revision: number;
    readonly injection: InjectionResult;
    readonly header: string;
    readonly redacted: boolean;
    /** Why the call cannot use the value; `null` if it can. */
    readonly unusable: CallExplanation["secrets"][number]["unusable"];
  }[];
}

/** Returns the explanation of a call, which was not made, as `--json` prints it. */
export function explanationResult({ refusals, token, server, secrets }: CallExplanation): ExplanationResult {
  return {
    refusals,
    token,
    server,
    secrets: secrets.map(({ name, revision, injection, header, redacted, unusable }) => ({
      name,
      revision,
      injection: injectionResult(injection),
      header,
      redacted,
      unusable,
    })),
  };
}
