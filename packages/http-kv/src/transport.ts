import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError } from "@keyward/core";
import { isApiKey } from "./api-keys.ts";
import { field, headers, neededScopes, type Operation, type RefusalBody, readRefusal } from "./protocol.ts";

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
  /** What sends a request; the global `fetch` unless given. A handler of `createKvHandler` will do. */
  readonly fetch?: (request: Request) => Promise<Response>;
}

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
/** What an answer may take in all, where the server is never silent for long: time, as a multiple of `timeoutMs`, and bytes. */
const longestAnswer = 10;
const largestAnswerBytes = 256 * 2 ** 20;
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
  readonly #fetch: (request: Request) => Promise<Response>;
  /** For how long after it was called a write may still be sent, in ms: a rotation waits for that. */
  readonly longestWriteMs: number;
  /** The token of the process that answered last; "" before any has. */
  #server = "";

  /**
   * @throws KeywardError `STORE_INVALID`.
   */
  constructor(options: HttpStoreOptions) {
    const { url, apiKey, timeoutMs = 10_000, retries = 3, allowPlainHttp = false } = options;
    this.#url = requireUrl(url, allowPlainHttp);
    if (!isApiKey(apiKey)) throw misconfigured("The API key is not one", "Pass what `keyward-kv tenants add` printed.");
    if (!(timeoutMs > 0)) throw misconfigured("timeoutMs is not above 0", "Leave it out to have 10 seconds.");
    if (!(Number.isInteger(retries) && retries >= 0)) {
      throw misconfigured("retries is not a whole number from 0", "Leave it out to have 3.");
    }
    this.#authorization = `Bearer ${apiKey}`;
    this.#timeoutMs = timeoutMs;
    this.longestWriteMs = timeoutMs * longestAnswer;
    this.#retries = retries;
    this.#fetch = options.fetch ?? ((request) => fetch(request));
  }

  /**
   * The JSON that an operation is answered with. Every operation may be sent again: a write carries a name under which
   * one process of the server does it once. Where another process may have done it before, that is said as well.
   *
   * @param writeUntilMs when a write is given up, by `performance.now()`: nothing of it is sent later.
   * @throws KeywardError as the server refuses, or `STORE_UNAVAILABLE`.
   */
  async call(
    operation: Operation,
    body: string,
    writeUntilMs: number = performance.now() + this.longestWriteMs,
  ): Promise<unknown> {
    const isWrite = neededScopes[operation].includes("write");
    const untilMs = isWrite ? writeUntilMs : Number.POSITIVE_INFINITY;
    // By both clocks: the steady one stands still while the machine sleeps.
    const untilWallMs = Date.now() + (untilMs - performance.now());
    const sent = new Headers({ authorization: this.#authorization, "content-type": "application/json" });
    if (isWrite) sent.set(headers.idempotencyKey, randomUUID());
    let server = isWrite ? this.#server : "";
    let mayHaveBeenDone = false;
    let misdirected = 0;
    for (let attempt = 0; ; attempt++) {
      const leftMs = Math.min(untilMs - performance.now(), untilWallMs - Date.now());
      if (leftMs <= 0) throw this.#tooLong();
      set(sent, headers.server, server);
      set(sent, headers.repeated, mayHaveBeenDone ? "1" : "");
      const request = new Request(`${this.#url}/${operation}`, {
        method: "POST",
        headers: sent,
        body,
        redirect: "error",
      });
      const result = await this.#attempt(request, leftMs);
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

  async #attempt(request: Request, leftMs: number): Promise<{ readonly answer: unknown } | Failure> {
    const silence = new Silence(this.#timeoutMs, Math.min(leftMs, this.#timeoutMs * longestAnswer));
    try {
      const response = await silence.orTimeout(this.#fetch(new Request(request, { signal: silence.signal })));
      this.#server = response.headers.get(headers.server) ?? this.#server;
      const text = await readAll(response, silence);
      if (response.status === 200) return { answer: JSON.parse(text) };
      return this.#refused(response, readRefusal(parse(text)));
    } catch (error) {
      return this.#failed(error, silence.signal.aborted);
    } finally {
      silence.end();
    }
  }

  #tooLong(): KeywardError {
    return new KeywardError("STORE_UNAVAILABLE", `A write to ${this.#url} took more than ${this.longestWriteMs} ms`, {
      hint: "Some of it may be stored. Write less at once, or raise timeoutMs, of which this is ten times.",
    });
  }

  #refused({ status, headers: answered }: Response, refusal: RefusalBody | undefined): Failure {
    const failure = {
      retry: retriedStatuses.includes(status),
      uncertain: !refusedUndone.includes(status) && refusal?.code !== "OVERLOADED",
      elsewhere: refusal?.code === "MISDIRECTED",
      pauseMs: readRetryAfter(answered.get("retry-after")),
    };
    const id = refusal?.id === undefined ? "" : ` (id ${refusal.id})`;
    const message = `${this.#url} answered ${status}${refusal === undefined ? "" : `: ${refusal.message}`}${id}`;
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

  /** Errors of fetch can quote headers, and those of JSON the body: only their codes are passed on. */
  #failed(error: unknown, timedOut: boolean): Failure {
    const given = field(field(error, "cause"), "code") ?? field(error, "code");
    const code = typeof given === "string" && /^[A-Z0-9_]+$/.test(given) ? given : undefined;
    const notJson = error instanceof SyntaxError;
    const tooLarge = error instanceof AnswerTooLarge;
    const connecting = field(field(error, "cause"), "syscall") === "connect";
    const unsent = code !== undefined && (notSent.includes(code) || (connecting && notSentIfConnecting.includes(code)));
    const what = timedOut
      ? `was silent for ${this.#timeoutMs} ms, or not done after ${longestAnswer} times as long`
      : notJson
        ? "answered with something that is not JSON"
        : tooLarge
          ? `answered with more than ${largestAnswerBytes} bytes`
          : `cannot be reached, or broke off${code === undefined ? "" : ` (${code})`}`;
    return {
      retry: !notJson && !tooLarge,
      uncertain: !unsent,
      elsewhere: false,
      error: new KeywardError("STORE_UNAVAILABLE", `${this.#url} ${what}`, {
        hint: "Nothing is known about whether a write arrived.",
      }),
    };
  }
}

class AnswerTooLarge extends Error {}

/** Ends an attempt after some time in which nothing came, or when it takes too long in all. */
class Silence {
  readonly #controller = new AbortController();
  readonly #timeoutMs: number;
  readonly #over: Promise<never>;
  readonly #last: NodeJS.Timeout;
  #timer: NodeJS.Timeout;

  constructor(timeoutMs: number, longestMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#over = new Promise((_, reject) => {
      this.signal.addEventListener("abort", () => reject(new Error("silent")), { once: true });
    });
    this.#over.catch(() => undefined);
    this.#timer = this.#start();
    this.#last = setTimeout(() => this.#controller.abort(), longestMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Waits for something to come, also from one who does not listen to the signal. */
  async orTimeout<Result>(awaited: Promise<Result>): Promise<Result> {
    const result = await Promise.race([awaited, this.#over]);
    clearTimeout(this.#timer);
    this.#timer = this.#start();
    return result;
  }

  end(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#last);
  }

  #start(): NodeJS.Timeout {
    return setTimeout(() => this.#controller.abort(), this.#timeoutMs);
  }
}

async function readAll(response: Response, silence: Silence): Promise<string> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await silence.orTimeout(reader?.read() ?? Promise.resolve(nothing));
    if (done || value === undefined) return Buffer.concat(chunks).toString("utf8");
    bytes += value.length;
    if (bytes > largestAnswerBytes) {
      reader?.cancel().catch(() => undefined);
      throw new AnswerTooLarge();
    }
    chunks.push(value);
  }
}

const nothing = { done: true, value: undefined } as const;

function set(sent: Headers, name: string, value: string): void {
  if (value === "") sent.delete(name);
  else sent.set(name, value);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function readRetryAfter(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

function requireUrl(url: string, allowPlainHttp: boolean): string {
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
  return parsed.href.replace(/\/$/, "");
}

function misconfigured(message: string, hint: string): KeywardError {
  return new KeywardError("STORE_INVALID", message, { hint });
}
