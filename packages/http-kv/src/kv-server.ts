import { createHash, type Hash, randomUUID } from "node:crypto";
import { KeywardError, type OptionNames, requireOptions } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { type ApiKeyEntry, authenticate, fixedTenants, type TenantSource } from "./api-keys.ts";
import { type Answer, type Incoming, jsonAnswer } from "./exchange.ts";
import { prepareKeyRequest, scopesOf } from "./key-requests.ts";
import { type KvLimits, requireLimits } from "./limits.ts";
import { MemoryBudget, type RequestMemory } from "./memory-budget.ts";
import { MultiTenantStore } from "./multi-tenant-store.ts";
import { bodyBounds, type OperationContext, type Prepared, prepareOperation } from "./operations.ts";
import {
  field,
  headers,
  invalid,
  neededScopes,
  operations,
  Refusal,
  type RefusalBody,
  readPath,
  type Scope,
  statuses,
} from "./protocol.ts";
import { RateLimit } from "./rate-limit.ts";
import { RecentWrites } from "./recent-writes.ts";
import { readJson } from "./request-body.ts";
import { storagePrefix, type TenantNamespace } from "./tenant-namespace.ts";

/** Options of {@link createKvHandler}. */
export interface KvHandlerOptions {
  /**
   * The Keyv 6 storage adapter that stores the records. No other program may write to the store. If the store cannot
   * replace a value atomically, be scanned or list its keys, the server answers each request that needs the missing
   * capability with the status 501.
   */
  readonly store: KeyvStorageAdapter;
  /**
   * The entries of the API keys that the server accepts: a source such as `fileTenants(path)`, or a list that never
   * changes.
   */
  readonly tenants: TenantSource | readonly ApiKeyEntry[];
  /** Limits on requests and memory. For each limit that you omit, its default applies. */
  readonly limits?: Partial<KvLimits>;
  /** The path at which the handler is mounted, such as "/kv". Default: "", the root. */
  readonly basePath?: string;
  /**
   * Called with an entry for each request, and with a second entry if sending the answer fails midway. Default: no log.
   */
  readonly log?: (entry: KvLogEntry) => void;
}

/** A log entry about one request. The entry contains no key of a record, no value and no API key. */
export interface KvLogEntry {
  /** The HTTP method, or "other" for a method other than GET, HEAD, PUT, DELETE and POST. */
  readonly method: string;
  /**
   * The target of the request: the name of an operation, "key", "prefix" or "health". "" if the server refused the
   * request before it determined the target.
   */
  readonly target: string;
  /** The HTTP status of the answer. */
  readonly status: number;
  /** Time from the arrival of the request to the beginning of the answer, in milliseconds. */
  readonly durationMs: number;
  /** The tenant of the API key. Missing if the request has no valid API key. */
  readonly tenant?: string;
  /** The id of the API key. Missing if the request has no valid API key. */
  readonly apiKeyId?: string;
  /** The id of an unexpected error. The body of the answer has the same id, unless the answer had already begun. */
  readonly errorId?: string;
  /**
   * The names, codes and stacks of an unexpected error and of its causes. The messages of Keyward's own errors are
   * included. The messages of other errors are omitted, because they could quote a record.
   */
  readonly error?: string;
}

const methods = ["GET", "HEAD", "PUT", "DELETE", "POST"];

/** The names of all options of a KV handler. */
export const kvHandlerOptionNames = {
  store: true,
  tenants: true,
  limits: true,
  basePath: true,
  log: true,
} as const satisfies OptionNames<KvHandlerOptions>;

/** Time for which the result of a check of the store is used to answer further health requests, in milliseconds. */
const healthKeptMs = 1_000;

/** The facts that the server has found out about a request so far. The server needs them to log and end the request. */
interface Progress {
  target: string;
  isWrite: boolean;
  entry?: ApiKeyEntry;
  memory?: RequestMemory;
}

/** An answer, and the memory that its request has reserved. Release the memory once the answer is delivered. */
export interface ServerAnswer extends Answer {
  readonly memory: RequestMemory | undefined;
}

/** Answers the requests that `node:http`, a fetch runtime or another HTTP server passes on. */
export class KvServer {
  readonly #store: MultiTenantStore;
  readonly #tenants: TenantSource;
  readonly #limits: KvLimits;
  readonly #basePath: string;
  readonly #log: (entry: KvLogEntry) => void;
  readonly #rate: RateLimit;
  readonly #memory: MemoryBudget;
  readonly #recent = new RecentWrites();
  #health: { readonly atMs: number; readonly reached: Promise<void> } | undefined;
  #madeId: string | undefined;

  /**
   * Makes the server from its options, without calling the store.
   *
   * @throws KeywardError `STORE_INVALID` for a store that is not a Keyv 6 storage adapter; `VALUE_INVALID` for an
   * unknown option, and for an invalid limit, entry or base path.
   */
  constructor(options: KvHandlerOptions) {
    const {
      store,
      tenants,
      limits = {},
      basePath = "",
      log = () => undefined,
    } = requireOptions("createKvHandler", options, kvHandlerOptionNames);
    this.#store = new MultiTenantStore(store);
    this.#tenants = isList(tenants) ? fixedTenants(tenants) : tenants;
    this.#limits = requireLimits(limits);
    this.#basePath = basePath.replace(/\/$/, "");
    this.#log = log;
    this.#rate = new RateLimit(this.#limits.requestsPerSecond);
    this.#memory = new MemoryBudget(this.#limits.maxBytesInMemory);
    if (this.#basePath !== "" && !/^(?:\/[\w.~-]+)+$/.test(this.#basePath)) {
      throw new KeywardError("VALUE_INVALID", 'The option "basePath" of createKvHandler is not the path of a URL', {
        hint: 'Pass a path such as "/kv", or omit basePath to mount the handler at the root.',
      });
    }
  }

  /**
   * The id of this process. Each start makes a new id, since only the running process knows which writes it did recently.
   * The id is made at the first request, since Cloudflare Workers have no random numbers before a request.
   */
  get #id(): string {
    this.#madeId ??= randomUUID();
    return this.#madeId;
  }

  /** Returns the answer to a request. If the request fails, the answer describes the failure. */
  async answer(incoming: Incoming): Promise<ServerAnswer> {
    const startedAt = performance.now();
    const progress: Progress = { target: "", isWrite: false };
    const log = (status: number, failure: { readonly errorId: string; readonly error: string } | undefined) => {
      const { target, entry } = progress;
      this.#log({
        method: methods.includes(incoming.method) ? incoming.method : "other",
        target,
        status,
        durationMs: Math.round((performance.now() - startedAt) * 10) / 10,
        ...(entry === undefined ? {} : { tenant: entry.tenant, apiKeyId: entry.id }),
        ...failure,
      });
    };
    let failure: { readonly errorId: string; readonly error: string } | undefined;
    let answer: Answer;
    try {
      answer = await this.#route(incoming, progress, (error) =>
        log(statuses.INTERNAL, { errorId: randomUUID(), error: describe(error) }),
      );
      if (progress.isWrite) progress.memory?.release();
    } catch (error) {
      progress.memory?.release();
      const refusal = error instanceof Refusal ? error : refusalFor(error);
      const reason = error === refusal ? refusal.cause : error;
      if (reason !== undefined && statuses[refusal.code] >= statuses.INTERNAL) {
        failure = { errorId: randomUUID(), error: describe(reason) };
      }
      answer = refused(refusal, failure?.errorId, incoming.method === "HEAD");
    }
    log(answer.status, failure);
    return {
      ...answer,
      // No cache may keep an answer, and no browser may guess its type.
      headers: {
        ...answer.headers,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        [headers.server]: `${this.#id}.${Math.floor(performance.now())}`,
      },
      memory: progress.memory,
    };
  }

  async #route(incoming: Incoming, progress: Progress, failed: (error: unknown) => void): Promise<Answer> {
    const { method } = incoming;
    const { path, query } = this.#locate(incoming.url);
    const authorization = incoming.header("authorization");
    // With an API key, the same path is the record "health". Without one, no record can be read.
    if (path === "/health" && authorization === null && (method === "GET" || method === "HEAD")) {
      progress.target = "health";
      return await this.#answerHealth();
    }
    const entry = await authenticate(authorization, this.#tenants, Date.now());
    if (entry === undefined) throw new Refusal("UNAUTHORIZED", "The request has no valid API key");
    progress.entry = entry;
    const waitSeconds = this.#rate.count(entry.id);
    if (waitSeconds !== undefined)
      throw new Refusal("RATE_LIMITED", "Too many requests with this API key", waitSeconds);
    if (!methods.includes(method))
      throw new Refusal("METHOD_NOT_ALLOWED", `The method is not one of ${methods.join(", ")}`);

    const memory = this.#memory.open(entry.tenant);
    progress.memory = memory;
    const context: OperationContext = {
      store: this.#store,
      tenantNamespace: { tenant: entry.tenant, namespace: entry.namespace ?? "" },
      limits: this.#limits,
      memory,
      mayRead: entry.scopes.includes("read"),
      failed,
    };
    if (method === "POST") {
      const operation = operations.find((known) => path === `/${known}`);
      if (operation === undefined)
        throw new Refusal(
          "NOT_FOUND",
          `The path is not the name of an operation. Operations: ${operations.join(", ")}`,
        );
      progress.target = operation;
      if (query !== "") throw invalid("An operation takes its arguments from the body, not from the query");
      requireScopes(entry, neededScopes[operation]);
      progress.isWrite = neededScopes[operation].includes("write");
      return await this.#once(progress.isWrite, incoming, path, context, async (digest) => {
        const { maxBytes, ...bounds } = bodyBounds(operation, this.#limits);
        const timeoutMs = this.#limits.bodyTimeoutMs;
        const body = await readJson(incoming, { maxBytes, timeoutMs, memory, digest }, bounds);
        return await prepareOperation(operation, body, context);
      });
    }
    const target = readPath(path, query);
    progress.target = target.kind;
    requireScopes(entry, scopesOf(incoming, target));
    progress.isWrite = method === "PUT" || method === "DELETE";
    return await this.#once(progress.isWrite, incoming, `${path}?${query}`, context, (digest) =>
      prepareKeyRequest(incoming, target, context, digest),
    );
  }

  /**
   * Reads a request and does it. Refuses a write that is meant for another process. Does a write with an idempotency key
   * only once, even if the client sends it several times.
   */
  async #once(
    isWrite: boolean,
    incoming: Incoming,
    target: string,
    { tenantNamespace }: OperationContext,
    prepare: (digest: Hash | undefined) => Promise<Prepared>,
  ): Promise<Answer> {
    if (!isWrite) return await (await prepare(undefined))(false);
    const token = incoming.header(headers.server);
    if (token !== null && !token.startsWith(`${this.#id}.`)) {
      throw new Refusal("MISDIRECTED", "The write is meant for another server process");
    }
    const id = incoming.header(headers.idempotencyKey);
    if (id === null) return await (await prepare(undefined))(this.#mayHaveBeenDone(incoming, tenantNamespace, false));
    if (!/^[\w-]{16,128}$/.test(id))
      throw invalid(`${headers.idempotencyKey} must have 16 to 128 letters, digits, "-" and "_"`);
    const digest = createHash("sha256").update(JSON.stringify([incoming.method, target, ...contentOf(incoming)]));
    const perform = await prepare(digest);
    return await this.#recent.once(
      storagePrefix(tenantNamespace, "records"),
      {
        idempotencyKey: id,
        request: digest.digest("base64url"),
        sinceMs: token === null ? undefined : timeOf(token),
      },
      (failedBefore) => perform(this.#mayHaveBeenDone(incoming, tenantNamespace, failedBefore)),
    );
  }

  /**
   * Returns whether an earlier attempt may already have done a write. False for a request without the header
   * `x-repeated`, which is a first attempt. For a repeated request, there are three possible cases:
   *
   * - Another process did the write.
   * - This process did the write, and the attempt then failed.
   * - This process did the write, and has forgotten the write since the client got its token.
   */
  #mayHaveBeenDone(incoming: Incoming, tenantNamespace: TenantNamespace, failedBefore: boolean): boolean {
    if (incoming.header(headers.repeated) === null) return false;
    if (failedBefore) return true;
    const token = incoming.header(headers.server);
    return token === null || !this.#recent.knowsSince(storagePrefix(tenantNamespace, "records"), timeOf(token));
  }

  /**
   * Returns the answer to a health request: whether the store can be reached. Checks the store at most once a second.
   */
  async #answerHealth(): Promise<Answer> {
    const now = performance.now();
    if (this.#health === undefined || now - this.#health.atMs >= healthKeptMs) {
      this.#health = { atMs: now, reached: this.#store.reach() };
    }
    await this.#health.reached.catch((error: unknown) => {
      throw new Refusal("UNAVAILABLE", "The server's store cannot be reached", 1, error);
    });
    return jsonAnswer({ status: "ok" });
  }

  /** Returns the path below the base path, and the query. Both stay percent-encoded. */
  #locate(url: string): { readonly path: string; readonly query: string } {
    const [, whole = "", query = ""] = /^(?:[^:/?#]+:\/\/[^/?#]*)?([^?#]*)(?:\?([^#]*))?/.exec(url) ?? [];
    if (!whole.startsWith(`${this.#basePath}/`))
      throw new Refusal("NOT_FOUND", "The path is not below the path at which the server is mounted");
    return { path: whole.slice(this.#basePath.length), query };
  }
}

/** Returns the values of the headers on which the result of a write depends. */
function contentOf(incoming: Incoming): (string | null)[] {
  return ["content-type", "if-match", "if-none-match", headers.ttl, headers.expires].map((name) =>
    incoming.header(name),
  );
}

/** Returns the time at which this process made a token, by `performance.now()`. */
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

/** Returns the refusal for an error that is not a refusal itself. The client does not get the message of the error. */
function refusalFor(error: unknown): Refusal {
  switch (error instanceof KeywardError ? error.code : undefined) {
    case "VALUE_INVALID":
      return invalid("The server's store refuses the key or the value of the record");
    case "STORE_UNAVAILABLE":
      return new Refusal("UNAVAILABLE", "The server's store failed or cannot be reached", 1);
    default:
      return new Refusal("INTERNAL", "The server failed with an unexpected error");
  }
}

function refused({ code, message, retryAfterSeconds }: Refusal, id: string | undefined, headersOnly: boolean): Answer {
  const body: RefusalBody = id === undefined ? { code, message } : { code, message, id };
  const answered: Record<string, string> = { "content-type": "application/json" };
  if (retryAfterSeconds !== undefined) answered["retry-after"] = String(retryAfterSeconds);
  if (code === "UNAUTHORIZED") answered["www-authenticate"] = "Bearer";
  if (code === "METHOD_NOT_ALLOWED") answered["allow"] = methods.join(", ");
  return { status: statuses[code], headers: answered, ...(headersOnly ? {} : { body: JSON.stringify(body) }) };
}

/**
 * Describes an error and its causes by names, codes and stacks. Includes the messages of Keyward's own errors only, since
 * other messages could quote a record.
 */
function describe(error: unknown): string {
  const lines: string[] = [];
  for (let each = error; each instanceof Error && lines.length < 60; each = each.cause) {
    const code = field(each, "code");
    const known = each instanceof KeywardError ? `: ${each.message}` : "";
    lines.push(`${each.name}${typeof code === "string" && /^\w+$/.test(code) ? ` ${code}` : ""}${known}`);
    const [, places = ""] = (each.stack ?? "").split(each.message === "" ? each.name : each.message);
    lines.push(...places.split("\n").filter((line) => /^ {4}at /.test(line)));
  }
  return lines.length === 0 ? "a value that is not an Error was thrown" : lines.join("\n");
}
