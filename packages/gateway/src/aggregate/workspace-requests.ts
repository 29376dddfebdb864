import type { CallOrigin } from "./call-origin.ts";
import { isObject, type JsonObject, objectIn, textIn } from "./json.ts";
import { listKindOf, listMember } from "./list-answers.ts";
import type { ListKind } from "./listed-items.ts";
import { type Asking, codes, RpcFailure } from "./messages.ts";
import { mayBeShortened, placeOf, publicName, resourceOf } from "./names.ts";
import { type CallEnd, type CallerFace, callServer, unknownName } from "./server-call.ts";
import { headerText } from "./server-connection.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

/** A request of a caller. */
export interface CallerRequest extends Asking {
  /** The lists that the caller sees. */
  readonly lists: WorkspaceLists;
  readonly origin: CallOrigin;
  readonly signal: AbortSignal;
  /** Headers of a caller of the modern protocol that repeat arguments. */
  readonly headers: Readonly<Record<string, string>>;
  /** Reads which servers and tools the token may use, and begins to read the lists of these servers. */
  readonly refresh: () => Promise<void>;
}

/** A request whose public name was resolved: the server, and the names that the server knows. */
interface Addressed {
  readonly slug: string;
  readonly params: JsonObject;
  readonly headers: Readonly<Record<string, string>>;
}

/** The error for a method that the endpoint does not support. */
export const noSuchMethod = {
  code: codes.methodNotFound,
  message: "The endpoint of the workspace does not have this method",
  data: { hint: "Call the server by its own endpoint, /s/<server>/mcp." },
} as const;

/** How long a request for a list waits for servers whose lists are missing, old or in doubt, in milliseconds. */
const listWaitMs = 3_000;

/** Answers the requests that exist in both protocols. @throws RpcFailure, GatewayProblem. */
export async function answerRequest(face: CallerFace, request: CallerRequest): Promise<CallEnd> {
  const { lists, method, signal, origin } = request;
  const kind = listKindOf(method);
  if (kind !== undefined) {
    await request.refresh();
    await lists.read(listWaitMs, signal);
    face.noteRead?.(kind, lists.version(kind));
    return { member: listMember(lists, kind, face.era, textIn(request.params, "cursor")), error: undefined };
  }
  const addressed = await addressOf(face, request);
  const listsChanged = () => lists.readAgain(addressed.slug);
  const failed = () => lists.noteFailedCall(addressed.slug);
  return await callServer(face, { ...addressed, method, origin, signal, listsChanged, failed });
}

async function addressOf(face: CallerFace, request: CallerRequest): Promise<Addressed> {
  const { method, params = {}, headers } = request;
  switch (method) {
    case "tools/call": {
      const { slug, name } = await namedPlace("tools", request, textIn(params, "name"));
      const given = face.era === "modern" ? headers : argumentHeaders(request, slug, name);
      return { slug, params: { ...params, name }, headers: given };
    }
    case "prompts/get": {
      const { slug, name } = await namedPlace("prompts", request, textIn(params, "name"));
      return { slug, params: { ...params, name }, headers: {} };
    }
    case "resources/read":
    case "resources/subscribe":
    case "resources/unsubscribe": {
      const { slug, uri } = placeOfUri(method, textIn(params, "uri"));
      return { slug, params: { ...params, uri }, headers: {} };
    }
    case "completion/complete": {
      const ref = objectIn(params, "ref");
      if (textIn(ref, "type") === "ref/prompt") {
        const { slug, name } = await namedPlace("prompts", request, textIn(ref, "name"));
        return { slug, params: { ...params, ref: { ...ref, name } }, headers: {} };
      }
      const { slug, uri } = placeOfUri("resources/read", textIn(ref, "uri"));
      return { slug, params: { ...params, ref: { ...ref, uri } }, headers: {} };
    }
    default:
      throw new RpcFailure(noSuchMethod);
  }
}

/** Returns the server and the server's own name of a public name. Looks up a shortened name in the server's list. */
async function namedPlace(
  kind: Extract<ListKind, "tools" | "prompts">,
  { lists, refresh, signal }: CallerRequest,
  text: string | undefined,
): Promise<{ readonly slug: string; readonly name: string }> {
  const place = placeOf(text ?? "");
  if (text === undefined || place === undefined) throw new RpcFailure(unknownName(`${kind}/call`));
  if (!mayBeShortened(place)) return place;
  if (lists.find(kind, place.slug, text) === undefined) {
    await refresh();
    await lists.read(listWaitMs, signal);
  }
  return { slug: place.slug, name: lists.find(kind, place.slug, text)?.name ?? place.name };
}

function placeOfUri(method: string, text: string | undefined): { readonly slug: string; readonly uri: string } {
  const place = resourceOf(text ?? "");
  if (place === undefined) throw new RpcFailure(unknownName(method));
  return place;
}

/** Returns the headers that repeat arguments, as a server of the modern protocol demands for some tools. */
function argumentHeaders({ lists, params }: CallerRequest, slug: string, name: string): Record<string, string> {
  const item = lists.find("tools", slug, publicName({ slug, name }));
  const headers: Record<string, string> = {};
  for (const [header, path] of item?.headers ?? []) {
    let value = objectIn(params, "arguments")[path[0] ?? ""];
    for (const key of path.slice(1)) value = isObject(value) ? value[key] : undefined;
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") continue;
    headers[`mcp-param-${header.toLowerCase()}`] = headerText(String(value));
  }
  return headers;
}
