import { hasToken } from "../fields.ts";
import type { Call } from "../model.ts";
import { newId } from "../records/ids.ts";
import { SecretsError } from "../secrets-error.ts";
import { type CallFields, callIdPattern, longest, mostCalledSecrets } from "./audit-entry.ts";
import { unknownName } from "./recorded-names.ts";
import { shortenedPath } from "./shortened-path.ts";

// A caller may have put a token or a value in the place of the slug or the method.
const slugPattern = /^[a-z0-9-]{1,32}$/;
const methodPattern = /^[A-Z]{1,16}$/;

/** Returns the id of a new call: 12 random lower-case letters and digits. */
export function newCallId(): string {
  return newId();
}

/**
 * Returns the fields of a call that an entry contains. Cuts long texts and does not refuse them, because a caller must
 * not be able to make a call that is not recorded.
 *
 * @throws SecretsError `FIELD_INVALID` if the id of the call does not have 12 to 64 letters, digits, hyphens and
 * underscores.
 */
export function callFieldsOf(call: Call): CallFields {
  const { callId, caller, status } = call;
  if (!callIdPattern.test(callId)) {
    throw new SecretsError(
      "FIELD_INVALID",
      "The id of a call must have 12 to 64 letters, digits, hyphens and underscores",
      {
        hint: "Pass what `newCallId()` returned.",
      },
    );
  }
  return {
    callId,
    caller: {
      tokenId: cut(caller.tokenId, longest.tokenId),
      owner: cut(caller.owner, longest.owner),
      role: caller.role,
      address: optionalCut(caller.address, longest.address),
    },
    server: slugPattern.test(call.server) ? call.server : unknownName,
    method: methodPattern.test(call.method) ? call.method : unknownName,
    path: cut(shortenedPath(call.path), longest.path),
    mcpMethod: withoutToken(call.mcpMethod, longest.mcpMethod),
    tool: withoutToken(call.tool, longest.tool),
    status: status !== undefined && status >= 100 && status <= 599 ? whole(status) : undefined,
    reason: optionalCut(call.reason, longest.reason),
    durationMs: whole(call.durationMs),
    requestBytes: whole(call.requestBytes),
    answerBytes: whole(call.answerBytes),
    secrets: call.secrets
      .slice(0, mostCalledSecrets)
      .map(({ name, revision }) => ({ name: cut(name, longest.secretName), revision })),
    redactions: whole(call.redactions),
  };
}

function cut(text: string, most: number): string {
  return text.slice(0, most).toWellFormed();
}

function optionalCut(text: string | undefined, most: number): string | undefined {
  return text === undefined ? undefined : cut(text, most);
}

/** Returns a text from the body of a request, cut to its largest length; `*` if the text contains a token. */
function withoutToken(text: string | undefined, most: number): string | undefined {
  return text !== undefined && hasToken(text) ? unknownName : optionalCut(text, most);
}

/** Returns a number as an integer that is not negative; 0 for a number that is not finite. */
export function whole(number: number): number {
  return Number.isFinite(number) ? Math.max(0, Math.round(number)) : 0;
}
