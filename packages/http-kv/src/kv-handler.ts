import { type BodyReading, type Incoming, pieceBytes, Turns, turnBytes } from "./exchange.ts";
import { type KvHandlerOptions, KvServer, type ServerAnswer } from "./kv-server.ts";
import { type RequestMemory, releaseWhenDropped } from "./memory-budget.ts";
import { invalid } from "./protocol.ts";

/**
 * An HTTP KV server as a function from a fetch `Request` to its `Response`. If a request fails, the response describes
 * the failure.
 */
export type KvHandler = (request: Request) => Promise<Response>;

/**
 * Makes an HTTP KV server: a function from a `Request` to its `Response`, which every runtime and framework with fetch
 * handlers can mount.
 *
 * @throws KeywardError `STORE_INVALID` for a store that is not a Keyv 6 storage adapter; `VALUE_INVALID` for an unknown
 * option, and for an invalid limit, entry or base path.
 * @example
 * const { apiKey, entry } = createApiKey({ tenant: "acme" });
 * const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
 */
export function createKvHandler(options: KvHandlerOptions): KvHandler {
  const server = new KvServer(options);
  return async (request) => responseOf(await server.answer(incomingOf(request)));
}

function incomingOf(request: Request): Incoming {
  return {
    method: request.method,
    url: request.url,
    header: (name) => request.headers.get(name),
    read: (take) =>
      Number(request.headers.get("content-length") ?? Number.NaN) <= pieceBytes
        ? readShort(request, take)
        : readStream(request.body, take),
  };
}

/** Reads a whole body in one step. For a body with a small `Content-Length`, this is faster than reading a stream. */
function readShort(request: Request, take: (piece: Uint8Array) => void): BodyReading {
  const broken = () => {
    throw invalid("The connection ended before the end of the body");
  };
  return {
    done: request.arrayBuffer().then((body) => {
      if (body.byteLength > 0) take(new Uint8Array(body));
    }, broken),
    stop: () => {},
  };
}

function readStream(body: ReadableStream<Uint8Array> | null, take: (piece: Uint8Array) => void): BodyReading {
  const reader = body?.getReader();
  const readAll = async () => {
    const turns = new Turns();
    for (;;) {
      const piece = await reader?.read().catch(() => {
        throw invalid("The connection ended before the end of the body");
      });
      if (piece?.value === undefined) return;
      // A body from memory is one piece of any length.
      for (let start = 0; start < piece.value.length; start += turnBytes) {
        const slice = piece.value.subarray(start, start + turnBytes);
        take(slice);
        await turns.worked(slice.length);
      }
    }
  };
  return { done: readAll(), stop: () => void reader?.cancel().catch(() => undefined) };
}

function responseOf({ status, headers, body, memory }: ServerAnswer): Response {
  if (body === undefined || typeof body === "string" || body instanceof Uint8Array) {
    memory?.release();
    return new Response(typeof body === "object" ? new Uint8Array(body) : body, { status, headers });
  }
  return new Response(streamOf(body, memory), { status, headers });
}

function streamOf(pieces: AsyncGenerator<Uint8Array>, memory: RequestMemory | undefined): ReadableStream<Uint8Array> {
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await pieces.next();
          if (done !== true) {
            controller.enqueue(value);
            return;
          }
          memory?.release();
          controller.close();
        } catch (error) {
          memory?.release();
          throw error;
        }
      },
      async cancel() {
        memory?.release();
        await pieces.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
  if (memory !== undefined) releaseWhenDropped(body, memory);
  return body;
}
