// cacheable-request: requests of node:http whose cache of responses is encrypted.
import { request } from "node:http";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import type { KeywardKeyv } from "@keyward/core";
import CacheableRequest from "cacheable-request";
import { Keyv } from "keyv"; // version 5, the same installed copy as in cacheable-request

/** A response, and whether it is from the cache. */
export interface CachedResponse {
  readonly body: string;
  readonly isFromCache: boolean;
}

/**
 * For each request, cacheable-request adds a listener for `error` with `once`, and cannot remove it from a Keyv 5. The
 * listeners pile up, and an error of one request can also fail a concurrent request. With `throwOnErrors`, each request gets
 * its own error without a listener, so this class adds none.
 */
class ResponseCache extends Keyv {
  override once(): void {}
}

/**
 * A function that requests a URL, and keeps cacheable responses in a Keyv that `createKeyv` made. The request rejects with a
 * `CacheError` if the stored response cannot be decrypted.
 */
export function cachedRequests(responses: KeywardKeyv): (url: string) => Promise<CachedResponse> {
  const cache = new ResponseCache({
    store: responses,
    ttl: 24 * 60 * 60_000, // without a ttl, responses that were not requested again would never expire
    useKeyPrefix: false,
    throwOnErrors: true,
  });
  const send = new CacheableRequest(request, cache).request();
  return (url) =>
    new Promise((resolve, reject) => {
      send(new URL(url), (response) => {
        if (!(response instanceof Readable)) return reject(new TypeError("The response has no body"));
        const isFromCache = "fromCache" in response && response.fromCache === true;
        buffer(response).then((body) => resolve({ body: body.toString(), isFromCache }), reject);
      })
        .on("request", (sent) => sent.end())
        .on("error", reject);
    });
}
