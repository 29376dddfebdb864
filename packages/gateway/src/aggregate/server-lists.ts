import { isOfAnswer, RefusedByRelay } from "../relay/index.ts";
import { NoMemoryError } from "./answer-reader.ts";
import type { CallOrigin } from "./call-origin.ts";
import { isJson, textIn } from "./json.ts";
import { itemsIn, type ListedItem, type ListKind, listKinds, listSources } from "./listed-items.ts";
import { codes } from "./messages.ts";
import type { ServerConnection } from "./server-connection.ts";

/** The result of reading the lists of a server. A list that the server does not offer is empty. */
export interface ReadLists {
  readonly lists: ReadonlyMap<ListKind, readonly ListedItem[]>;
  /** Why a list could not be read, by kind; `undefined` for what {@link reasonOf} does not name. */
  readonly failed: ReadonlyMap<ListKind, string | undefined>;
}

const maxPages = 50;
const maxItems = 2_000;
const maxCharacters = 2 * 1_048_576;

/** Reads the lists of a server. @throws as `ServerConnection.open`. */
export async function readLists(
  connection: ServerConnection,
  slug: string,
  { origin, signal }: { readonly origin: CallOrigin; readonly signal: AbortSignal },
): Promise<ReadLists> {
  const { capabilities } = await connection.open(origin);
  const lists = new Map<ListKind, readonly ListedItem[]>();
  const failed = new Map<ListKind, string | undefined>();
  for (const kind of listKinds) {
    if (capabilities[listSources[kind].capability] === undefined) {
      lists.set(kind, []);
      continue;
    }
    try {
      lists.set(kind, await readList(connection, slug, kind, { origin, signal }));
    } catch (error) {
      signal.throwIfAborted();
      const reason = reasonOf(error);
      failed.set(kind, reason && `${reason} (${listSources[kind].method})`);
    }
  }
  return { lists, failed };
}

/**
 * Returns for admins why the lists of a server could not be read. Contains no text of the server. Returns `undefined` for an
 * error of the gateway or the token. Also for a server that the relay could not reach: the relay notes this itself.
 */
export function reasonOf(error: unknown): string | undefined {
  if (error instanceof NoMemoryError) return undefined;
  if (error instanceof RefusedByRelay) return isOfAnswer(error.problem) ? error.message : undefined;
  if (error instanceof DOMException && error.name === "TimeoutError") return "The server did not answer in time";
  return "The server does not answer as MCP demands";
}

async function readList(
  connection: ServerConnection,
  slug: string,
  kind: ListKind,
  { origin, signal }: { readonly origin: CallOrigin; readonly signal: AbortSignal },
): Promise<readonly ListedItem[]> {
  const { method } = listSources[kind];
  const items = new Map<string, ListedItem>();
  const cursors = new Set<string>();
  let characters = 0;
  for (let page = 0, cursor: string | undefined; page < maxPages; page++) {
    const params = cursor === undefined ? {} : { cursor };
    const outcome = await connection.request({ method, params, origin, signal });
    if ("error" in outcome) {
      if (outcome.error.code === codes.methodNotFound) return [];
      throw new Error("The server refuses to list");
    }
    for (const item of itemsIn(kind, slug, outcome.result)) {
      characters += item.json.length;
      if (items.size >= maxItems || characters > maxCharacters) return searched(connection, items);
      // If two entries have the same name, the first one is used, as most clients do.
      if (!items.has(item.publicName)) items.set(item.publicName, item);
    }
    cursor = textIn(outcome.result, "nextCursor");
    if (cursor === undefined || cursors.has(cursor)) break;
    cursors.add(cursor);
  }
  return searched(connection, items);
}

/** Removes secret values from the composed entries. The answers of the server were already searched before. */
function searched(connection: ServerConnection, items: ReadonlyMap<string, ListedItem>): readonly ListedItem[] {
  return [...items.values()].flatMap((item) => {
    const json = connection.redacted(item.json);
    // A value may be a part of a number or of an escape. Then the rest is not JSON.
    if (json !== item.json && !isJson(json)) return [];
    return [{ ...item, publicName: connection.redacted(item.publicName), json }];
  });
}
