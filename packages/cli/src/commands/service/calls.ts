import { setTimeout as pause } from "node:timers/promises";
import type { CallListFilter, RecordedCall } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { callResult } from "../../results/call-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { NewCalls } from "../../service/new-calls.ts";
import { shownDuration } from "../../terminal/durations.ts";
import { oneLine, table } from "../../terminal/output.ts";

/** The flags that select the calls to list. */
export interface CallFlags extends Omit<CallListFilter, "token"> {
  readonly tokenId?: string;
}

/** The options of `keyward calls tail`. */
export interface TailOptions extends Omit<CallFlags, "from" | "until"> {
  /** The pause between two requests to the service, in milliseconds. */
  readonly every: number;
}

/** Lists the calls and their callers. The call that ended last is first. Prints no value of a secret. */
export async function listCalls(
  context: Context,
  { limit, tokenId, ...flags }: ListOptions & CallFlags,
): Promise<void> {
  const filter = { ...flags, token: tokenId };
  const { client } = await adminAccess(context);
  const options = limit === undefined ? {} : { limit };
  const { items, complete } = await listAll(context, (page) => client.listCalls(filter, page), options);
  context.output.result(items.length === 0 ? "There are no such calls." : table(items.map(rowOf)), {
    calls: items.map(callResult),
    complete,
  });
}

/** Prints each call that ends from now on, until the operator stops the command or the output is closed. */
export async function tailCalls(context: Context, { every, tokenId, ...flags }: TailOptions): Promise<void> {
  const { signal, output } = context;
  const { client } = await adminAccess(context);
  const calls = new NewCalls((from, page) => client.listCalls({ ...flags, token: tokenId, from }, page));
  await calls.begin();
  output.progress(`New calls, every ${shownDuration(every)}, until Ctrl-C:`);
  while (!output.isClosed) {
    await pause(every, undefined, { signal });
    const { found, complete } = await calls.next();
    if (!complete)
      output.notice("More calls have ended than this command can print. `keyward calls list` lists them all.");
    for (const call of found) output.result(rowOf(call).map(oneLine).filter(Boolean).join("  "), callResult(call));
  }
}

/** Prints all details that the audit has about a call, with the name and the revision of each secret that the call used. */
export async function explainCall(context: Context, id: string): Promise<void> {
  const { client } = await adminAccess(context);
  const call = await client.getCall(id);
  const { caller, method, path, mcpMethod, tool, status, reason, durationMs, requestBytes, answerBytes } = call;
  const rows = [
    ["call", call.callId],
    ["began", call.at],
    ["took", `${durationMs} ms`],
    [
      "caller",
      `${caller.owner} (${caller.role}, id ${caller.tokenId}), from ${caller.address ?? "an unknown address"}`,
    ],
    ["server", call.server],
    ["request", `${method} ${path}, ${requestBytes} bytes`],
    ...(mcpMethod === null ? [] : [["MCP", tool === null ? mcpMethod : `${mcpMethod} ${tool}`]]),
    ["answer", `${status ?? "none: the caller left before the answer"}, ${answerBytes} bytes`],
    ["outcome", reason === null ? call.outcome : `${call.outcome}: ${reason}`],
    ...(reason === "SERVER_UNAVAILABLE"
      ? [["cause", `the log of the gateway has it, in the entry with "requestId":"${call.callId}"`]]
      : []),
    ...call.secrets.map(({ name, revision }) => ["secret", `${name}, revision ${revision}`]),
    ["redactions", String(call.redactions)],
  ];
  context.output.result(table(rows), { call: callResult(call) });
}

function rowOf(call: RecordedCall): readonly string[] {
  const { callId, at, caller, server, method, path, mcpMethod, tool, status, reason, outcome, durationMs } = call;
  return [
    at,
    callId,
    caller.owner,
    server,
    tool ?? mcpMethod ?? `${method} ${path}`,
    [outcome, status, reason].filter((part) => part !== null).join(" "),
    `${durationMs} ms`,
  ];
}
