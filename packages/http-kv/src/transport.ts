import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, type OptionNames, requireAmount, requireOptions } from "@keyward/core";
import { AnswerReader, maxAnswerBytes } from "./answer-reader.ts";
import { isApiKey } from "./api-keys.ts";
import { pieceBytes } from "./exchange.ts";
import { JsonRefusal } from "./json-reader.ts";
import { field, headers, neededScopes, type Operation, type RefusalBody, readRefusal } from "./protocol.ts";
import { fetchSender, nodeSender, type Send, TimedOut } from "./send.ts";

/** Options of {@link HttpStore}. */
export interface HttpStoreOptions {
  /** The URL at which the server is mounted, such as "https://kv.example.com/kv". */
  readonly url: string;
  /** The API key, which determines the tenant whose records the store reads and writes. */
  readonly apiKey: string;
  /**
   * How long the server may send nothing during an attempt of a call, in milliseconds. Default: 10,000. In total, an
   * attempt may take ten times `timeoutMs`. All attempts of a write together may also take at most ten times
   * `timeoutMs`.
   */
  readonly timeoutMs?: number;
  /** Maximum number of times that a failed call is sent again. Default: 3. */
  readonly retries?: number;
  /**
   * Whether to allow plain `http:` to other machines. Default: false, since anyone on the network path could read the
   * API key and all values that are not encrypted.
   */
  readonly allowPlainHttp?: boolean;
  /** The function that sends a request, such as a handler of `createKvHandler`. Default: `node:http` or `node:https`. */
  readonly fetch?: (request: Request) => Promise<Response>;
}

const optionNames = {
  url: true,
  apiKey: true,
  timeoutMs: true,
  retries: true,
  allowPlainHttp: true,
  fetch: true,
} satisfies OptionNames<HttpStoreOptions>;

/** The first pause between two attempts, in milliseconds. Each further pause is twice as long as the pause before it. */
const firstPauseMs = 50;
const longestPauseMs = 5_000;
/**
 * How often a write may reach the wrong server process before the client sends the write without the token of a
 * process.
 */
const maxMisdirected = 2;
/** If `Retry-After` asks for a longer pause, the call fails. */
const longestRetryAfterMs = 30_000;

/** Codes of failures to connect: no request was sent. */
const notSent = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"];
/**
 * Codes that mean that no request was sent, but only if the error comes from connecting. An established connection can
 * fail with these codes, too.
 */
const notSentIfConnecting = ["EHOSTUNREACH", "ENETUNREACH"];
/** Longest duration of an answer in total, as a multiple of `timeoutMs`. */
const timeoutsPerAnswer = 10;
const retriedStatuses = [408, 429, 502, 503, 504];
/** HTTP statuses with which the server answers a request that it has certainly not done. */
const undoneStatuses = [408, 429];

/** The reason why an attempt of a call failed, and whether another attempt is allowed. */
interface Failure {
  readonly error: KeywardError;
  readonly retry: boolean;
  /** Whether the server may have done the operation. */
  readonly uncertain: boolean;
  /**
   * Whether the server answered `MISDIRECTED`. The write is then meant for another server process, or this process may
   * have done and forgotten the write.
   */
  readonly elsewhere: boolean;
  readonly pauseMs?: number | undefined;
}

/** Sends operations to the server. An operation that failed is sent again if a further attempt may succeed. */
export class Transport {
  /** The URL of the server, which error messages quote. */
  readonly url: string;
  readonly #authorization: string;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #send: Send;
  /**
   * Maximum time from the start of a call until the call sends its last write to the server, in milliseconds. When the
   * lease of a replica (a running process) has lapsed, a rotation also waits for this time before it continues.
   */
  readonly longestWriteMs: number;
  /** The token of the server process that answered last; "" before the first answer. */
  #server = "";

  /**
   * Checks the options, without connecting to the server.
   *
   * @throws KeywardError `STORE_INVALID` for an invalid URL or API key, and for plain `http:` to another machine
   * without `allowPlainHttp`; `VALUE_INVALID` for an unknown option, or an invalid `timeoutMs` or `retries`.
   */
  constructor(options: HttpStoreOptions) {
    const { url, apiKey, fetch, allowPlainHttp = false } = requireOptions("HttpStore", options, optionNames);
    const parsed = requireUrl(url, allowPlainHttp);
    this.url = parsed.href.replace(/\/$/, "");
    if (typeof apiKey !== "string" || !isApiKey(apiKey)) {
      throw misconfigured(
        'The option "apiKey" of HttpStore does not have the form of an API key',
        "Pass the API key that `keyward-kv tenants add` printed. It begins with `kv_`.",
      );
    }
    this.#authorization = `Bearer ${apiKey}`;
    const most = Math.floor(2 ** 30 / timeoutsPerAnswer);
    this.#timeoutMs = requireAmount("timeoutMs", options.timeoutMs ?? 10_000, "milliseconds", { most });
    this.#retries = requireAmount("retries", options.retries ?? 3, "attempts", { least: 0 });
    this.longestWriteMs = this.#timeoutMs * timeoutsPerAnswer;
    this.#send = fetch === undefined ? nodeSender(parsed) : fetchSender(this.url, fetch);
  }

  /**
   * Sends an operation, and returns the parsed JSON of the answer. If an attempt fails and a further attempt may
   * succeed, the operation is sent again. All attempts of a write have the same idempotency key, so a server process
   * does the write only once. If an earlier attempt may already have done the write, the next attempts have the header
   * `x-repeated`.
   *
   * @param answerParts maximum number of brackets, commas and colons in the answer.
   * @param writeUntilMs time after which no attempt of a write is sent, by `performance.now()`.
   * @throws KeywardError with the code that fits the server's refusal; `STORE_UNAVAILABLE` for any other failure.
   */
  async call(
    operation: Operation,
    body: string,
    answerParts: number,
    writeUntilMs: number = performance.now() + this.longestWriteMs,
  ): Promise<unknown> {
    const isWrite = neededScopes[operation].includes("write");
    const untilMs = isWrite ? writeUntilMs : Number.POSITIVE_INFINITY;
    // Checked with both clocks, since performance.now() stops while the machine sleeps.
    const untilWallMs = Date.now() + (untilMs - performance.now());
    const sent: Record<string, string> = { authorization: this.#authorization, "content-type": "application/json" };
    if (isWrite) sent[headers.idempotencyKey] = randomUUID();
    let server = isWrite ? this.#server : "";
    let mayHaveBeenDone = false;
    let misdirected = 0;
    for (let attempt = 0; ; attempt++) {
      const leftMs = Math.min(untilMs - performance.now(), untilWallMs - Date.now());
      if (leftMs <= 0) throw this.#tooLong();
      if (server === "") delete sent[headers.server];
      else sent[headers.server] = server;
      if (mayHaveBeenDone) sent[headers.repeated] = "1";
      const result = await this.#attempt(operation, sent, body, answerParts, leftMs);
      if ("answer" in result) return result.answer;
      const { error, retry, uncertain, elsewhere, pauseMs = 0 } = result;
      if (elsewhere && server !== "") {
        // It is unknown whether an earlier attempt was done. Doing the write again could undo a later one.
        if (mayHaveBeenDone) throw error;
        // A load balancer may send each attempt to another process. So after a few attempts, the write names no
        // process.
        server = ++misdirected > maxMisdirected ? "" : this.#server;
        attempt--;
        continue;
      }
      // Another process, of another version or with other limits, may refuse a write that an earlier attempt did.
      if (!retry && mayHaveBeenDone) throw unknownOutcome(error);
      if (!retry || attempt >= this.#retries || pauseMs > longestRetryAfterMs) throw error;
      mayHaveBeenDone ||= isWrite && uncertain;
      // At least the pause that the server asked for, plus a random one, so that clients which were refused at the same
      // time do not return at the same time.
      const backoffMs = Math.min(firstPauseMs * 2 ** attempt, longestPauseMs);
      const waitMs = pauseMs + backoffMs * (0.5 + Math.random());
      if (performance.now() + waitMs >= untilMs) throw error;
      await sleep(waitMs);
    }
  }

  async #attempt(
    operation: Operation,
    sent: Readonly<Record<string, string>>,
    body: string,
    answerParts: number,
    leftMs: number,
  ): Promise<{ readonly answer: unknown } | Failure> {
    let reader: AnswerReader | undefined;
    let refused: { readonly status: number; readonly retryAfter: string | undefined } | undefined;
    const refusal: Uint8Array[] = [];
    let refusalBytes = 0;
    try {
      await this.#send({
        operation,
        headers: sent,
        body,
        silenceMs: this.#timeoutMs,
        longestMs: Math.min(leftMs, this.#timeoutMs * timeoutsPerAnswer),
        begin: (status, header) => {
          this.#server = header(headers.server) ?? this.#server;
          if (status === 200) {
            const length = header("content-length");
            const made = new AnswerReader(answerParts, length === undefined ? undefined : Number(length));
            reader = made;
            return (piece) => made.write(piece);
          }
          refused = { status, retryAfter: header("retry-after") };
          return (piece) => {
            refusalBytes += piece.length;
            // A longer body is not a refusal of the protocol.
            if (refusalBytes > pieceBytes) throw new JsonRefusal("too large");
            refusal.push(piece);
          };
        },
      });
      if (reader !== undefined) return { answer: reader.end() };
    } catch (error) {
      if (refused === undefined || !(error instanceof JsonRefusal)) return this.#failed(error);
    }
    const { status = 0, retryAfter } = refused ?? {};
    const text = refusalBytes > pieceBytes ? "" : Buffer.concat(refusal).toString("utf8");
    return this.#refused(status, retryAfter, readRefusal(parse(text)));
  }

  #tooLong(): KeywardError {
    return new KeywardError(
      "STORE_UNAVAILABLE",
      `A write to the HTTP KV server ${this.url} took more than ${this.longestWriteMs} ms`,
      {
        hint: "Read the records to see which writes were done. If the call had many records, write fewer records in one call. Otherwise, raise `timeoutMs`: the limit of a write is ten times `timeoutMs`.",
      },
    );
  }

  #refused(status: number, retryAfter: string | undefined, refusal: RefusalBody | undefined): Failure {
    const failure = {
      retry: retriedStatuses.includes(status),
      uncertain: !undoneStatuses.includes(status) && refusal?.code !== "OVERLOADED",
      elsewhere: refusal?.code === "MISDIRECTED",
      pauseMs: readRetryAfter(retryAfter),
    };
    const id = refusal?.id === undefined ? "" : this.#quote(" (id ", refusal.id, ")");
    const message = `The HTTP KV server ${this.url} answered ${status}${this.#quote(": ", refusal?.message ?? "", "")}${id}`;
    const as = (
      code: "VALUE_INVALID" | "STORE_NOT_ATOMIC" | "STORE_NOT_SCANNABLE" | "STORE_UNAVAILABLE",
      hint: string,
    ) => ({
      ...failure,
      error: new KeywardError(code, message, { hint }),
    });
    const code = refusal?.code;
    switch (code) {
      case undefined:
        return as(
          "STORE_UNAVAILABLE",
          "Check that the option `url` is the address of a keyward-kv server, and that no proxy answered instead of the server.",
        );
      case "REQUEST_INVALID":
        return as(
          "VALUE_INVALID",
          "Change the record's key, the value or the cursor that the message describes. If the message describes an unknown field, the server is older than this client: update @keyward/http-kv on the server.",
        );
      case "TOO_LARGE":
        return as(
          "VALUE_INVALID",
          "Shorten the record's key or the value, or pass fewer records in one call. If the server must accept the call as it is, raise the limit of the server that the message describes.",
        );
      case "NOT_ATOMIC":
        return as(
          "STORE_NOT_ATOMIC",
          "Run the server with a store that has `replace()`, such as SqliteStore or RedisStore.",
        );
      case "NOT_SCANNABLE":
        return as(
          "STORE_NOT_SCANNABLE",
          "Run the server with a store that has `scan()` and `iterator()`, such as SqliteStore or RedisStore.",
        );
      case "UNAUTHORIZED":
        return as(
          "STORE_UNAVAILABLE",
          "The API key is unknown, expired or revoked. To see which API keys are valid, run `keyward-kv tenants list`.",
        );
      case "FORBIDDEN":
        return as("STORE_UNAVAILABLE", "Use an API key that has the scope that the message names.");
      case "OVERLOADED":
        return as(
          "STORE_UNAVAILABLE",
          "Send fewer or smaller requests at the same time. If the machine of the server has free memory, raise the limit `maxBytesInMemory` of the server.",
        );
      case "RATE_LIMITED":
        return as(
          "STORE_UNAVAILABLE",
          "Combine single calls into batches, such as `getMany()`. If the server can do more, raise the limit `requestsPerSecond` of the server.",
        );
      case "NOT_FOUND":
      case "METHOD_NOT_ALLOWED":
      case "PRECONDITION_FAILED":
      case "MISDIRECTED":
      case "REQUEST_TIMEOUT":
      case "INTERNAL":
      case "UNAVAILABLE":
        return as(
          "STORE_UNAVAILABLE",
          "If the message has an id, find the log entry of the server with this id. If the call was a write, read the record to see whether the write was done.",
        );
      default:
        return code satisfies never;
    }
  }

  /**
   * Returns a text of the server between `before` and `after`. Returns "" for a text that is not one line or contains
   * the API key, because a server of another kind could send any text.
   */
  #quote(before: string, text: string, after: string): string {
    const isLine = /^[\x20-\x7e]{1,200}$/.test(text) && !text.includes(this.#authorization.slice(-20));
    return isLine ? `${before}${text}${after}` : "";
  }

  /**
   * Returns the failure of an attempt that threw an error. Shows only the code of the error, because messages of network
   * errors can quote headers, and messages of JSON.parse quote the body.
   */
  #failed(error: unknown): Failure {
    const cause = field(error, "cause");
    const given = field(cause, "code") ?? field(error, "code");
    const code = typeof given === "string" && /^[A-Z0-9_]+$/.test(given) ? given : undefined;
    const connecting = (field(cause, "syscall") ?? field(error, "syscall")) === "connect";
    const timedOut = error instanceof TimedOut;
    const unsent =
      (timedOut && !error.sent) ||
      (code !== undefined && (notSent.includes(code) || (connecting && notSentIfConnecting.includes(code))));
    const refused = error instanceof JsonRefusal;
    const what = timedOut
      ? error.sent
        ? `sent nothing for ${this.#timeoutMs} ms, or did not finish its answer within ${timeoutsPerAnswer * this.#timeoutMs} ms`
        : `accepted no connection within ${this.#timeoutMs} ms`
      : refused
        ? whyRefused(error)
        : `cannot be reached, or the connection broke${code === undefined ? "" : ` (${code})`}`;
    return {
      retry: !refused,
      uncertain: !unsent,
      elsewhere: false,
      error: new KeywardError("STORE_UNAVAILABLE", `The HTTP KV server ${this.url} ${what}`, {
        hint: unsent
          ? "Check that the option `url` is correct and that the server is running. No request was sent, so nothing was written."
          : "Check the server and the network. If the call was a write, read the record to see whether the write was done.",
      }),
    };
  }
}

/** Returns the error for a write that was refused after an attempt whose outcome is unknown. */
function unknownOutcome(error: KeywardError): KeywardError {
  if (error.code === "STORE_UNAVAILABLE") return error;
  return new KeywardError(
    "STORE_UNAVAILABLE",
    `${error.message}. An earlier attempt of this write may have succeeded`,
    {
      hint: `Read the record to see whether this write was done. ${error.hint}`,
      cause: error,
    },
  );
}

function whyRefused({ reason }: JsonRefusal): string {
  switch (reason) {
    case "malformed":
      return "sent an answer that is not JSON";
    case "too deep":
      return "sent JSON that is nested too deeply for an answer of the HTTP KV protocol";
    case "too large":
      return `sent an answer that is longer than this request allows, or longer than ${maxAnswerBytes} bytes`;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function readRetryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

function requireUrl(url: string, allowPlainHttp: boolean): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol)) {
    throw misconfigured(
      'The option "url" of HttpStore is not a URL that begins with http:// or https://',
      'Pass a URL such as "https://kv.example.com".',
    );
  }
  if (parsed.username !== "" || parsed.password !== "" || parsed.search !== "" || parsed.hash !== "") {
    throw misconfigured(
      'The option "url" of HttpStore has a user name, a password, a query or a fragment',
      'Pass only the address of the server, such as "https://kv.example.com/kv".',
    );
  }
  const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(parsed.hostname);
  if (parsed.protocol === "http:" && !loopback && !allowPlainHttp) {
    throw misconfigured(
      'The option "url" of HttpStore is plain HTTP to another machine, so anyone on the network path could read the API key',
      "Pass a URL that begins with https://. If the network path is encrypted by other means, you can set `allowPlainHttp` instead.",
    );
  }
  return parsed;
}

function misconfigured(message: string, hint: string): KeywardError {
  return new KeywardError("STORE_INVALID", message, { hint });
}
