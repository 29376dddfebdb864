import { randomUUID } from "node:crypto";
import { KeywardError } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { type ApiKeyEntry, authenticate, fixedTenants, type TenantSource } from "./api-keys.ts";
import { type Area, DividedStore, placeOf } from "./areas.ts";
import { BytesUnderWay, type HeldBytes, releasedWhenDelivered } from "./bytes-under-way.ts";
import { answerKeyRequest, type KeyRequestContext, listing } from "./key-requests.ts";
import { type KvLimits, requireLimits } from "./limits.ts";
import { partOf, perform } from "./operations.ts";
import {
  field,
  headers,
  invalid,
  neededScopes,
  type Operation,
  operations,
  type PathTarget,
  Refusal,
  type RefusalBody,
  readPath,
  type Scope,
  statuses,
} from "./protocol.ts";
import { RateLimit } from "./rate-limit.ts";
import { type KeptAnswer, RecentWrites } from "./recent-writes.ts";
import { decodeText, readBody } from "./request-body.ts";

/** What {@link createKvHandler} is told. */
export interface KvHandlerOptions {
  /**
   * Where records lie: any Keyv 6 storage adapter, which nobody else writes to. What it cannot do (replace atomically,
   * be scanned, be listed) is refused with 501.
   */
  readonly store: KeyvStorageAdapter;
  /** Who may use the server: a source such as `fileTenants`, or entries that never change. */
  readonly tenants: TenantSource | readonly ApiKeyEntry[];
  /** What a request may ask for; the others have their defaults. */
  readonly limits?: Partial<KvLimits>;
  /** The path under which the handler is mounted, such as "/kv"; the root unless given. */
  readonly basePath?: string;
  /** Told of each request, and of each error that was answered with an id alone. Nothing unless given. */
  readonly log?: (entry: KvLogEntry) => void;
}

/** What the server tells about a request. It holds no key of a record, no value and no API key. */
export interface KvLogEntry {
  /** The HTTP method. */
  readonly method: string;
  /** What was asked for: an operation, "key", "prefix", or "" for what was refused before that was known. */
  readonly target: string;
  /** The HTTP status of the answer. */
  readonly status: number;
  /** How long it took until the answer began, in ms. */
  readonly durationMs: number;
  /** The tenant, where the API key is good. */
  readonly tenant?: string;
  /** The public part of the API key, where it is good. */
  readonly apiKeyId?: string;
  /** The id that the client was answered with. */
  readonly errorId?: string;
  /** What happened: names, codes and places in the code, without messages, which could quote a record. */
  readonly error?: string;
}

/** Answers requests of the protocol. */
export type KvHandler = (request: Request) => Promise<Response>;

const methods = ["GET", "HEAD", "PUT", "DELETE", "POST"];

/** Every answer is for its client alone, and is never run or guessed at by a browser. */
const commonHeaders = { "cache-control": "no-store", "x-content-type-options": "nosniff" };

/**
 * Makes the server: a function from a request to its answer, which any framework or runtime of fetch can mount.
 *
 * @throws KeywardError `STORE_INVALID` for a store that is not a Keyv 6 adapter; `VALUE_INVALID` for a limit, an entry or
 * a base path that is none.
 */
export function createKvHandler(options: KvHandlerOptions): KvHandler {
  const server = new KvServer(options);
  return (request) => server.answer(request);
}

/** What is known of a request so far. */
interface Progress {
  target: string;
  isWrite: boolean;
  entry?: ApiKeyEntry;
  held?: HeldBytes;
}

class KvServer {
  readonly #store: DividedStore;
  readonly #tenants: TenantSource;
  readonly #limits: KvLimits;
  readonly #basePath: string;
  readonly #log: (entry: KvLogEntry) => void;
  readonly #rate: RateLimit;
  readonly #underWay: BytesUnderWay;
  readonly #recent = new RecentWrites();
  #madeId: string | undefined;

  constructor({ store, tenants, limits = {}, basePath = "", log = () => undefined }: KvHandlerOptions) {
    this.#store = new DividedStore(store);
    this.#tenants = isList(tenants) ? fixedTenants(tenants) : tenants;
    this.#limits = requireLimits(limits);
    this.#basePath = basePath.replace(/\/$/, "");
    this.#log = log;
    this.#rate = new RateLimit(this.#limits.requestsPerSecond);
    this.#underWay = new BytesUnderWay(this.#limits.maxBytesUnderWay);
    if (this.#basePath !== "" && !/^(?:\/[\w.~-]+)+$/.test(this.#basePath)) {
      throw new KeywardError("VALUE_INVALID", "The base path is not a path", { hint: 'Pass one such as "/kv".' });
    }
  }

  /**
   * A new one with each start: what was done recently is known to this process alone. It is made with the first request,
   * since Workers give out nothing random before.
   */
  get #id(): string {
    this.#madeId ??= randomUUID();
    return this.#madeId;
  }

  async answer(request: Request): Promise<Response> {
    const startedAt = performance.now();
    const progress: Progress = { target: "", isWrite: false };
    const log = (status: number, failure: { readonly errorId: string; readonly error: string } | undefined) => {
      const { target, entry } = progress;
      this.#log({
        method: methods.includes(request.method) ? request.method : "other",
        target,
        status,
        durationMs: Math.round((performance.now() - startedAt) * 10) / 10,
        ...(entry === undefined ? {} : { tenant: entry.tenant, apiKeyId: entry.id }),
        ...failure,
      });
    };
    let failure: { readonly errorId: string; readonly error: string } | undefined;
    let response: Response;
    try {
      response = await this.#route(request, progress, (error) =>
        log(statuses.INTERNAL, { errorId: randomUUID(), error: describe(error) }),
      );
      const { held, isWrite } = progress;
      if (isWrite) held?.release();
      else if (held !== undefined) response = releasedWhenDelivered(response, held);
    } catch (error) {
      progress.held?.release();
      const refusal = error instanceof Refusal ? error : refusalFor(error);
      if (error !== refusal && statuses[refusal.code] >= statuses.INTERNAL) {
        failure = { errorId: randomUUID(), error: describe(error) };
      }
      response = refused(refusal, failure?.errorId, request.method === "HEAD");
    }
    for (const [name, value] of Object.entries(commonHeaders)) response.headers.set(name, value);
    response.headers.set(headers.server, `${this.#id}.${Math.floor(performance.now())}`);
    log(response.status, failure);
    return response;
  }

  async #route(request: Request, progress: Progress, failed: (error: unknown) => void): Promise<Response> {
    const { path, query } = this.#locate(request.url);
    const entry = await authenticate(request.headers.get("authorization"), this.#tenants, Date.now());
    if (entry === undefined) throw new Refusal("UNAUTHORIZED", "A good API key is needed");
    progress.entry = entry;
    const waitSeconds = this.#rate.take(entry.id);
    if (waitSeconds !== undefined) throw new Refusal("RATE_LIMITED", "Too many requests", waitSeconds);
    if (!methods.includes(request.method))
      throw new Refusal("METHOD_NOT_ALLOWED", "The method is not one of the protocol");

    const held = this.#underWay.open(entry.tenant);
    progress.held = held;
    const area = { tenant: entry.tenant, namespace: entry.namespace ?? "" };
    const context = (mayHaveBeenDone: boolean): KeyRequestContext => ({
      store: this.#store,
      area,
      limits: this.#limits,
      held,
      mayHaveBeenDone,
      failed,
    });
    if (request.method === "POST") {
      const operation = operations.find((known) => path === `/${known}`);
      if (operation === undefined) throw new Refusal("NOT_FOUND", "There is no such operation");
      progress.target = operation;
      requireScopes(entry, neededScopes[operation]);
      progress.isWrite = neededScopes[operation].includes("write");
      return await this.#once(progress.isWrite, request, area, (mayHaveBeenDone) =>
        performRequest(operation, request, context(mayHaveBeenDone)),
      );
    }
    const target = readPath(path, query);
    progress.target = target.kind;
    requireScopes(entry, [scopeOf(request.method, target)]);
    progress.isWrite = request.method === "PUT" || request.method === "DELETE";
    return await this.#once(progress.isWrite, request, area, (mayHaveBeenDone) =>
      answerKeyRequest(request, target, context(mayHaveBeenDone)),
    );
  }

  /** A write is done by the process that it is meant for, and once if the client gave it a name. */
  async #once(
    isWrite: boolean,
    request: Request,
    area: Area,
    answer: (mayHaveBeenDone: boolean) => Promise<Response>,
  ): Promise<Response> {
    const token = request.headers.get(headers.server);
    if (isWrite && token !== null && !token.startsWith(`${this.#id}.`)) {
      throw new Refusal("MISDIRECTED", "This is another server");
    }
    const id = request.headers.get(headers.idempotencyKey);
    if (!isWrite || id === null) return await answer(isWrite && this.#mayHaveBeenDone(request, area, false));
    if (!/^[\w-]{16,128}$/.test(id))
      throw invalid(`${headers.idempotencyKey} is 16 to 128 letters, digits, "-" and "_"`);
    const kept = await this.#recent.once(
      placeOf(area, "records"),
      { idempotencyKey: id, sinceMs: token === null ? undefined : timeOf(token) },
      async (failedBefore): Promise<KeptAnswer> => {
        const response = await answer(this.#mayHaveBeenDone(request, area, failedBefore));
        return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
      },
    );
    return new Response(kept.body, { status: kept.status, headers: kept.headers });
  }

  /**
   * Whether an earlier attempt at a write that is not remembered may have been done all the same: by another process, or
   * by this one, where it failed or was forgotten since the token was given out.
   */
  #mayHaveBeenDone({ headers: sent }: Request, area: Area, failedBefore: boolean): boolean {
    if (!sent.has(headers.repeated)) return false;
    if (failedBefore) return true;
    const token = sent.get(headers.server);
    return token === null || !this.#recent.knowsSince(placeOf(area, "records"), timeOf(token));
  }

  /** What of the URL lies below the mount, as it came. */
  #locate(url: string): { readonly path: string; readonly query: string } {
    const [, whole = "", query = ""] = /^[^:/?#]+:\/\/[^/?#]*([^?#]*)(?:\?([^#]*))?/.exec(url) ?? [];
    if (!whole.startsWith(`${this.#basePath}/`)) throw new Refusal("NOT_FOUND", "There is nothing under this path");
    return { path: whole.slice(this.#basePath.length), query };
  }
}

/** When a token was given out, by `performance.now()`. */
function timeOf(token: string): number {
  const [, timeMs = "NaN"] = token.split(".");
  return Number(timeMs);
}

function isList(tenants: TenantSource | readonly ApiKeyEntry[]): tenants is readonly ApiKeyEntry[] {
  return Array.isArray(tenants);
}

function requireScopes({ scopes }: ApiKeyEntry, needed: readonly Scope[]): void {
  const missing = needed.filter((scope) => !scopes.includes(scope));
  if (missing.length > 0) throw new Refusal("FORBIDDEN", `The API key lacks the scope ${missing.join(", ")}`);
}

function scopeOf(method: string, { kind }: PathTarget): Scope {
  if (method === "PUT" || method === "DELETE") return "write";
  return kind === "key" ? "read" : "list";
}

function parseBody(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw invalid("The body is not JSON");
  }
}

/** What a client is told of an error that was not meant for it. */
function refusalFor(error: unknown): Refusal {
  switch (error instanceof KeywardError ? error.code : undefined) {
    case "VALUE_INVALID":
      return invalid("The server's store does not take this");
    case "STORE_UNAVAILABLE":
      return new Refusal("UNAVAILABLE", "The server cannot do this at the moment", 1);
    default:
      return new Refusal("INTERNAL", "The server failed");
  }
}

function refused(
  { code, message, retryAfterSeconds }: Refusal,
  id: string | undefined,
  headersOnly: boolean,
): Response {
  const body: RefusalBody = id === undefined ? { code, message } : { code, message, id };
  const answered: Record<string, string> = { "content-type": "application/json" };
  if (retryAfterSeconds !== undefined) answered["retry-after"] = String(retryAfterSeconds);
  if (code === "UNAUTHORIZED") answered["www-authenticate"] = "Bearer";
  if (code === "METHOD_NOT_ALLOWED") answered["allow"] = methods.join(", ");
  return new Response(headersOnly ? null : JSON.stringify(body), { status: statuses[code], headers: answered });
}

/** Names, codes and places in the code. A message could quote what a client sent, so it is left out, except our own. */
function describe(error: unknown): string {
  const lines: string[] = [];
  for (let each = error; each instanceof Error && lines.length < 60; each = each.cause) {
    const code = field(each, "code");
    const known = each instanceof KeywardError ? `: ${each.message}` : "";
    lines.push(`${each.name}${typeof code === "string" && /^\w+$/.test(code) ? ` ${code}` : ""}${known}`);
    const [, places = ""] = (each.stack ?? "").split(each.message === "" ? each.name : each.message);
    lines.push(...places.split("\n").filter((line) => /^ {4}at /.test(line)));
  }
  return lines.length === 0 ? "something that is no Error was thrown" : lines.join("\n");
}

async function performRequest(operation: Operation, request: Request, context: KeyRequestContext): Promise<Response> {
  const { limits, held, failed } = context;
  const bytes = await readBody(request, { maxBytes: limits.maxBodyBytes, timeoutMs: limits.bodyTimeoutMs, held });
  const body = parseBody(decodeText(bytes));
  if (operation === "list") return await listing(partOf(body, context), "operation", "", failed);
  return Response.json(await perform(operation, body, context));
}
