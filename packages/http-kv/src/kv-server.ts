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

const methods = ["GET", "HEAD", "PUT", "DELETE", "POST"];

const optionNames = {
  store: true,
  tenants: true,
  limits: true,
  basePath: true,
  log: true,
} satisfies OptionNames<KvHandlerOptions>;

/** How long what is known of the store's health is answered again, in ms. */
const healthKeptMs = 1_000;

/** What is known of a request so far. */
interface Progress {
  target: string;
  isWrite: boolean;
  entry?: ApiKeyEntry;
  memory?: RequestMemory;
}

/** An answer, and what has to be released when it was delivered. */
export interface ServerAnswer extends Answer {
  readonly memory: RequestMemory | undefined;
}

/** Answers the requests of the protocol, for whatever server they came to. */
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
   * @throws KeywardError as `createKvHandler`.
   */
  constructor(options: KvHandlerOptions) {
    const {
      store,
      tenants,
      limits = {},
      basePath = "",
      log = () => undefined,
    } = requireOptions("createKvHandler", options, optionNames);
    this.#store = new MultiTenantStore(store);
    this.#tenants = isList(tenants) ? fixedTenants(tenants) : tenants;
    this.#limits = requireLimits(limits);
    this.#basePath = basePath.replace(/\/$/, "");
    this.#log = log;
    this.#rate = new RateLimit(this.#limits.requestsPerSecond);
    this.#memory = new MemoryBudget(this.#limits.maxBytesInMemory);
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
      // Every answer is for its client alone, and is never run or guessed at by a browser.
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
    // Without an API key nothing else is answered, so no key of a record is in the way.
    if (path === "/health" && authorization === null && (method === "GET" || method === "HEAD")) {
      progress.target = "health";
      return await this.#answerHealth();
    }
    const entry = await authenticate(authorization, this.#tenants, Date.now());
    if (entry === undefined) throw new Refusal("UNAUTHORIZED", "A good API key is needed");
    progress.entry = entry;
    const waitSeconds = this.#rate.take(entry.id);
    if (waitSeconds !== undefined) throw new Refusal("RATE_LIMITED", "Too many requests", waitSeconds);
    if (!methods.includes(method)) throw new Refusal("METHOD_NOT_ALLOWED", "The method is not one of the protocol");

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
      if (operation === undefined) throw new Refusal("NOT_FOUND", "There is no such operation");
      progress.target = operation;
      if (query !== "") throw invalid("An operation has no query: what it needs is in its body");
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
   * Reads a request, and does it. A write is done by the process that it is meant for, and once if the client gave it a
   * name.
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
      throw new Refusal("MISDIRECTED", "This is another server");
    }
    const id = incoming.header(headers.idempotencyKey);
    if (id === null) return await (await prepare(undefined))(this.#mayHaveBeenDone(incoming, tenantNamespace, false));
    if (!/^[\w-]{16,128}$/.test(id))
      throw invalid(`${headers.idempotencyKey} is 16 to 128 letters, digits, "-" and "_"`);
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
   * Whether an earlier attempt at a write that is not remembered may have been done all the same: by another process, or
   * by this one, where it failed or was forgotten since the token was given out.
   */
  #mayHaveBeenDone(incoming: Incoming, tenantNamespace: TenantNamespace, failedBefore: boolean): boolean {
    if (incoming.header(headers.repeated) === null) return false;
    if (failedBefore) return true;
    const token = incoming.header(headers.server);
    return token === null || !this.#recent.knowsSince(storagePrefix(tenantNamespace, "records"), timeOf(token));
  }

  /** Asks the store at most once a second, whoever wants to know. */
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

  /** What of the URL is below the mount, as it came. */
  #locate(url: string): { readonly path: string; readonly query: string } {
    const [, whole = "", query = ""] = /^(?:[^:/?#]+:\/\/[^/?#]*)?([^?#]*)(?:\?([^#]*))?/.exec(url) ?? [];
    if (!whole.startsWith(`${this.#basePath}/`)) throw new Refusal("NOT_FOUND", "There is nothing under this path");
    return { path: whole.slice(this.#basePath.length), query };
  }
}

/** The headers that say what a write does. */
function contentOf(incoming: Incoming): (string | null)[] {
  return ["content-type", "if-match", "if-none-match", headers.ttl, headers.expires].map((name) =>
    incoming.header(name),
  );
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

function refused({ code, message, retryAfterSeconds }: Refusal, id: string | undefined, headersOnly: boolean): Answer {
  const body: RefusalBody = id === undefined ? { code, message } : { code, message, id };
  const answered: Record<string, string> = { "content-type": "application/json" };
  if (retryAfterSeconds !== undefined) answered["retry-after"] = String(retryAfterSeconds);
  if (code === "UNAUTHORIZED") answered["www-authenticate"] = "Bearer";
  if (code === "METHOD_NOT_ALLOWED") answered["allow"] = methods.join(", ");
  return { status: statuses[code], headers: answered, ...(headersOnly ? {} : { body: JSON.stringify(body) }) };
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
