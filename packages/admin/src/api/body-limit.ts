import type { MiddlewareHandler } from "hono";
import type { ApiEnvironment } from "./api-environment.ts";
import { bodyTooLarge } from "./error-problems.ts";

/**
 * Refuses a request whose body is longer than a number of bytes, before the body is parsed. Hono's own `bodyLimit` makes a
 * new request of the old one, which fails with the requests of `@hono/node-server` if global objects are not replaced.
 */
export function limitedBody(maxBytes: number): MiddlewareHandler<ApiEnvironment> {
  return async ({ req }, next) => {
    const { raw } = req;
    if (raw.body === null) return await next();
    const length = raw.headers.get("content-length");
    if (length !== null && !raw.headers.has("transfer-encoding")) {
      if (Number(length) > maxBytes) throw bodyTooLarge();
      return await next();
    }
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    for await (const piece of raw.body) {
      bytes += piece.byteLength;
      if (bytes > maxBytes) throw bodyTooLarge();
      pieces.push(piece);
    }
    const { url, method, headers, signal } = raw;
    req.raw = new Request(url, { method, headers, signal, ...(bytes === 0 ? {} : { body: Buffer.concat(pieces) }) });
    await next();
  };
}
