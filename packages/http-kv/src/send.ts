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
      sending.setHeaders(new Map(Object.entries({ ...headers, "content-length": `${Buffer.byteLength(body)}` })));
      const end = (error?: unknown) => {
        clearTimeout(silence);
        clearTimeout(last);
        if (error === undefined) {
          resolve();
          return;
        }
        sending.destroy();
        reject(error);
      };
      const giveUp = () => end(new TimedOut(sending.socket?.connecting === false));
      const silence = setTimeout(giveUp, silenceMs);
      const last = setTimeout(giveUp, longestMs);
      sending.on("error", end);
      sending.on("response", (answer) => {
        silence.refresh();
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
          silence.refresh();
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
