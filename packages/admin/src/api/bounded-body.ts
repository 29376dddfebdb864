import type { ApiContext } from "./api-environment.ts";
import { bodyTooLarge } from "./error-problems.ts";
import { apiProblem } from "./problem-error.ts";

/**
 * Reads the whole body of a request before its handler runs. Refuses a body of more than `maxBytes`. The
 * middleware `bodyLimit` of Hono cannot be used: it clones the request, and under `@hono/node-server` a request can be cloned
 * only if that package replaces the global `Request` and `Response`.
 */
export async function readBody(req: ApiContext["req"], maxBytes: number): Promise<void> {
  const { raw } = req;
  if (Number(req.header("content-length") ?? 0) > maxBytes) throw bodyTooLarge();
  if (raw.body === null) return;
  const body = await read(raw.body, maxBytes);
  req.raw = new Request(req.url, { method: req.method, headers: new Headers(raw.headers), body });
}

async function read(stream: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const piece of stream) {
      bytes += piece.byteLength;
      if (bytes > maxBytes) break;
      pieces.push(piece);
    }
  } catch {
    throw incompleteBody();
  }
  if (bytes > maxBytes) throw bodyTooLarge();
  return new Uint8Array(Buffer.concat(pieces));
}

function incompleteBody() {
  return apiProblem("REQUEST_MALFORMED", {
    title: "Incomplete request",
    detail: "The connection ended before the whole body had arrived",
    hint: "Send the request again. Nothing was changed.",
  });
}
