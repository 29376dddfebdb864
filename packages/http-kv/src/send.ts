import { request as requestPlainly } from "node:http";
import { request as requestSecurely } from "node:https";

/** A request that is to be sent, and what gets its answer. */
export interface Sending {
  /** The name of the operation. */
  readonly operation: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** How long nothing may come, in ms. */
  readonly silenceMs: number;
  /** How long all of it may take, in ms. */
  readonly longestMs: number;
  /** Told of the status and the headers; what it returns gets the answer's body, piece by piece. */
  readonly begin: (status: number, header: (name: string) => string | undefined) => (piece: Uint8Array) => void;
}

/**
 * Sends a request. Resolves at the end of the answer; rejects with {@link TimedOut}, with the error of the network, or with
 * what `begin` and its result threw.
 */
export type Send = (sending: Sending) => Promise<void>;

/** Nothing came for too long, or too little in all. */
export class TimedOut extends Error {
  override readonly name = "TimedOut";
  /** Whether the server can have seen the request. */
  readonly sent: boolean;

  constructor(sent: boolean) {
    super("Nothing came for too long");
    this.sent = sent;
  }
}

/**
 * Sends through `node:http`, which costs a third of what `fetch` does. Connections stay open in Node's global agent, and
 * no redirect is followed.
 */
export function nodeSender(url: URL): Send {
  const base = url.pathname.replace(/\/$/, "");
  const request = url.protocol === "https:" ? requestSecurely : requestPlainly;
  const target = {
    protocol: url.protocol,
    hostname: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port,
    method: "POST",
  };
  return ({ operation, headers, body, silenceMs, longestMs, begin }) =>
    new Promise((resolve, reject) => {
      const sending = request({ ...target, path: `${base}/${operation}` });
      // Not among the options: Node prints what a connection is made with where NODE_DEBUG names "net", and these hold the
      // API key.
      for (const [name, value] of Object.entries(headers)) sending.setHeader(name, value);
      sending.setHeader("content-length", Buffer.byteLength(body));
      let ended = false;
      const end = (error?: unknown) => {
        ended = true;
        clearTimeout(timer);
        if (error === undefined) {
          resolve();
          return;
        }
        sending.destroy();
        reject(error);
      };
      const giveUp = () => end(new TimedOut(sending.socket?.connecting === false));
      // One timer for both ends: that of the silence, or that of all of it where it comes first.
      const untilMs = performance.now() + longestMs;
      let timer = setTimeout(giveUp, Math.min(silenceMs, longestMs));
      const heard = () => {
        if (ended) return;
        const leftMs = untilMs - performance.now();
        if (leftMs > silenceMs) {
          timer.refresh();
          return;
        }
        clearTimeout(timer);
        timer = setTimeout(giveUp, Math.max(0, leftMs));
      };
      sending.on("error", end);
      sending.on("response", (answer) => {
        heard();
        const guarded = <Result>(act: () => Result): Result | undefined => {
          try {
            return act();
          } catch (error) {
            end(error);
            return undefined;
          }
        };
        const take = guarded(() =>
          begin(answer.statusCode ?? 0, (name) => {
            const value = answer.headers[name];
            return value === undefined ? undefined : String(value);
          }),
        );
        if (take === undefined) return;
        answer.on("data", (piece: Buffer) => {
          heard();
          guarded(() => take(piece));
        });
        answer.on("end", () => end());
        answer.on("error", end);
      });
      sending.end(body);
    });
}

/** Sends through a function of fetch. */
export function fetchSender(url: string, fetch: (request: Request) => Promise<Response>): Send {
  return async ({ operation, headers, body, silenceMs, longestMs, begin }) => {
    const controller = new AbortController();
    let giveUp = () => {};
    const over = new Promise<never>((_, reject) => {
      giveUp = () => {
        controller.abort();
        reject(new TimedOut(true));
      };
    });
    over.catch(() => undefined);
    const silence = setTimeout(() => giveUp(), silenceMs);
    const last = setTimeout(() => giveUp(), longestMs);
    /** Waits for something to come, also from one who does not listen to the signal. */
    const next = async <Result>(awaited: Promise<Result>): Promise<Result> => {
      const result = await Promise.race([awaited, over]);
      silence.refresh();
      return result;
    };
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
    try {
      const request = new Request(`${url}/${operation}`, {
        method: "POST",
        headers,
        body,
        redirect: "error",
        signal: controller.signal,
      });
      const response = await next(fetch(request));
      const take = begin(response.status, (name) => response.headers.get(name) ?? undefined);
      reader = response.body?.getReader();
      for (;;) {
        const piece = reader === undefined ? undefined : await next(reader.read());
        if (piece?.value === undefined) return;
        take(piece.value);
      }
    } catch (error) {
      reader?.cancel().catch(() => undefined);
      throw error;
    } finally {
      clearTimeout(silence);
      clearTimeout(last);
    }
  };
}
