import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, type OptionNames, requireAmount, requireOptions } from "@keyward/core";
import { AnswerReader, mostAnswerBytes } from "./answer-reader.ts";
import { isApiKey } from "./api-keys.ts";
import { pieceBytes } from "./exchange.ts";
import { JsonRefusal } from "./json-reader.ts";
import { field, headers, neededScopes, type Operation, type RefusalBody, readRefusal } from "./protocol.ts";
import { fetchSender, nodeSender, type Send, TimedOut } from "./send.ts";

/** Settings of a {@link HttpStore}. */
export interface HttpStoreOptions {
  /** Where the server is mounted, such as "https://kv.example.com/kv". */
  readonly url: string;
  /** The API key, which decides whose records the store shows. */
  readonly apiKey: string;
  /** How long the server may be silent in one attempt, in ms; 10,000 unless given. An attempt may take ten times as long, and so may a write with all its attempts. */
  readonly timeoutMs?: number;
  /** How often a call that failed is made again; 3 unless given. */
  readonly retries?: number;
  /** Allows plain `http:` to other machines, where everybody on the way reads the API key and all that is not sealed. */
  readonly allowPlainHttp?: boolean;
  /** What sends a request; `node:http` or `node:https` unless given. A handler of `createKvHandler` will do. */
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

/** The first wait between two attempts, in ms; each further one is twice as long, up to the longest. */
const firstPauseMs = 50;
const longestPauseMs = 5_000;
/** How often a write may come to another process than the one it was meant for. */
const mostMisdirected = 2;
/** A server that asks for more patience is not waited for. */
const mostPatienceMs = 30_000;

/** Failures to connect: no request was sent. */
const notSent = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"];
/** They come to connections that stand as well. */
const notSentIfConnecting = ["EHOSTUNREACH", "ENETUNREACH"];
/** How long an answer may take in all, where the server is never silent for long, as a multiple of `timeoutMs`. */
const longestAnswer = 10;
const retriedStatuses = [408, 429, 502, 503, 504];
/** Answered before anything was done. */
const refusedUndone = [408, 429];

/** Why an attempt failed. */
interface Failure {
  readonly error: KeywardError;
  readonly retry: boolean;
  /** Whether the server may have done what was asked. */
  readonly uncertain: boolean;
  /** Whether another process of the server answered than the one that was meant. */
  readonly elsewhere: boolean;
  readonly pauseMs?: number | undefined;
}

/** Sends operations to the server until it answers. */
export class Transport {
  readonly #url: string;
  readonly #authorization: string;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #send: Send;
  /** For how long after it was called a write may still be sent, in ms: a rotation waits for that. */
  readonly longestWriteMs: number;
  /** The token of the process that answered last; "" before any has. */
  #server = "";

  /**
   * @throws KeywardError `STORE_INVALID`; `VALUE_INVALID` for an option that there is not, or a number that is none.
   */
  constructor(options: HttpStoreOptions) {
    const { url, apiKey, fetch, allowPlainHttp = false } = requireOptions("HttpStore", options, optionNames);
    const parsed = requireUrl(url, allowPlainHttp);
    this.#url = parsed.href.replace(/\/$/, "");
    if (typeof apiKey !== "string" || !isApiKey(apiKey)) {
      throw misconfigured("The API key is not one", "Pass what `keyward-kv tenants add` printed.");
    }
    this.#authorization = `Bearer ${apiKey}`;
    const most = Math.floor(2 ** 30 / longestAnswer);
    this.#timeoutMs = requireAmount("timeoutMs", options.timeoutMs ?? 10_000, "milliseconds", { most });
    this.#retries = requireAmount("retries", options.retries ?? 3, "attempts", { least: 0 });
    this.longestWriteMs = this.#timeoutMs * longestAnswer;
    this.#send = fetch === undefined ? nodeSender(parsed) : fetchSender(this.#url, fetch);
  }

  /**
   * The JSON that an operation is answered with. Every operation may be sent again: a write carries a name under which
   * one process of the server does it once. Where another process may have done it before, that is said as well.
   *
   * @param answerParts how many brackets, commas and colons the answer may have.
   * @param writeUntilMs when a write is given up, by `performance.now()`: nothing of it is sent later.
   * @throws KeywardError as the server refuses, or `STORE_UNAVAILABLE`.
   */
  async call(
    operation: Operation,
    body: string,
    answerParts: number,
    writeUntilMs: number = performance.now() + this.longestWriteMs,
  ): Promise<unknown> {
    const isWrite = neededScopes[operation].includes("write");
    const untilMs = isWrite ? writeUntilMs : Number.POSITIVE_INFINITY;
    // By both clocks: the steady one stands still while the machine sleeps.
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
        // What may have been done, nobody can tell any more, and to do it again could undo a later write.
        if (mayHaveBeenDone) throw error;
        // Behind a balancer that sends each attempt to another process, none can be named.
        server = ++misdirected > mostMisdirected ? "" : this.#server;
        attempt--;
        continue;
      }
      if (!retry || attempt >= this.#retries || pauseMs > mostPatienceMs) throw error;
      mayHaveBeenDone ||= isWrite && uncertain;
      // Not below what the server asked for; above, random, so that those who were refused together do not come back so.
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
        longestMs: Math.min(leftMs, this.#timeoutMs * longestAnswer),
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
            // What is longer is no refusal of the protocol.
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
    return new KeywardError("STORE_UNAVAILABLE", `A write to ${this.#url} took more than ${this.longestWriteMs} ms`, {
      hint: "Some of it may be stored. Write less at once, or raise timeoutMs, of which this is ten times.",
    });
  }

  #refused(status: number, retryAfter: string | undefined, refusal: RefusalBody | undefined): Failure {
    const failure = {
      retry: retriedStatuses.includes(status),
      uncertain: !refusedUndone.includes(status) && refusal?.code !== "OVERLOADED",
      elsewhere: refusal?.code === "MISDIRECTED",
      pauseMs: readRetryAfter(retryAfter),
    };
    const id = refusal?.id === undefined ? "" : this.#quote(" (id ", refusal.id, ")");
    const message = `${this.#url} answered ${status}${this.#quote(": ", refusal?.message ?? "", "")}${id}`;
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
        return as("STORE_UNAVAILABLE", "Is the url that of a keyward-kv server, and is a proxy in between at fault?");
      case "REQUEST_INVALID":
      case "TOO_LARGE":
        return as("VALUE_INVALID", "Change what is stored, or the limits of the server.");
      case "NOT_ATOMIC":
        return as("STORE_NOT_ATOMIC", "Give the server a store that has replace().");
      case "NOT_SCANNABLE":
        return as("STORE_NOT_SCANNABLE", "Give the server a store that has scan() and iterator().");
      case "UNAUTHORIZED":
        return as("STORE_UNAVAILABLE", "The API key is unknown, has expired or was revoked. Ask for another.");
      case "FORBIDDEN":
        return as("STORE_UNAVAILABLE", "Use an API key that has the scope.");
      case "OVERLOADED":
        return as("STORE_UNAVAILABLE", "Store less at once, or raise the server's limit, if it has the memory.");
      case "RATE_LIMITED":
        return as(
          "STORE_UNAVAILABLE",
          "Make fewer calls, batches instead of single ones, or raise the server's limit.",
        );
      case "NOT_FOUND":
      case "METHOD_NOT_ALLOWED":
      case "PRECONDITION_FAILED":
      case "MISDIRECTED":
      case "REQUEST_TIMEOUT":
      case "INTERNAL":
      case "UNAVAILABLE":
        return as("STORE_UNAVAILABLE", "Nothing is known about whether a write arrived. The server's log has the id.");
      default:
        return code satisfies never;
    }
  }

  /** What the server says, if it is a line of text. A server that is not ours could say anything, the API key included. */
  #quote(before: string, said: string, after: string): string {
    const isLine = /^[\x20-\x7e]{1,200}$/.test(said) && !said.includes(this.#authorization.slice(-20));
    return isLine ? `${before}${said}${after}` : "";
  }

  /** Errors of the network can quote headers, and those of JSON the body: only their codes are passed on. */
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
        ? `was silent for ${this.#timeoutMs} ms, or not done after ${longestAnswer} times as long`
        : `let no connection be made within ${this.#timeoutMs} ms`
      : refused
        ? whyRefused(error)
        : `cannot be reached, or broke off${code === undefined ? "" : ` (${code})`}`;
    return {
      retry: !refused,
      uncertain: !unsent,
      elsewhere: false,
      error: new KeywardError("STORE_UNAVAILABLE", `${this.#url} ${what}`, {
        hint: unsent
          ? "Nothing was written. Check the url, and whether the server is running."
          : "Nothing is known about whether a write arrived.",
      }),
    };
  }
}

function whyRefused({ reason }: JsonRefusal): string {
  switch (reason) {
    case "malformed":
      return "answered with something that is not JSON";
    case "too deep":
      return "answered with JSON that is too deep to be an answer of the protocol";
    case "too large":
      return `answered with more than was asked for, or with more than ${mostAnswerBytes} bytes`;
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
    throw misconfigured("The url is not one of http or https", 'Pass one such as "https://kv.example.com".');
  }
  if (parsed.username !== "" || parsed.password !== "" || parsed.search !== "" || parsed.hash !== "") {
    throw misconfigured("The url holds more than where the server is", "Leave out user, password, query and fragment.");
  }
  const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(parsed.hostname);
  if (parsed.protocol === "http:" && !loopback && !allowPlainHttp) {
    throw misconfigured(
      "Plain http: to another machine would show the API key to everybody on the way",
      "Use https:, or set allowPlainHttp if the way is protected otherwise.",
    );
  }
  return parsed;
}

function misconfigured(message: string, hint: string): KeywardError {
  return new KeywardError("STORE_INVALID", message, { hint });
}
