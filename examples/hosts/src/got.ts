// got: a client whose cache of responses is encrypted.
import type { KeywardKeyv } from "@keyward/core";
import got, { type Got } from "got";
import { Keyv } from "keyv"; // version 5, the same installed copy as in got

/**
 * For each request, got adds a listener for `error` with `once`, and cannot remove it from a Keyv 5, so the listeners pile
 * up. With `throwOnErrors`, each request gets its own error without a listener, so this class adds none.
 */
class ResponseCache extends Keyv {
  override once(): void {}
}

/**
 * A client that keeps cacheable responses in a Keyv that `createKeyv` made. A request rejects with a `CacheError` if the
 * stored response cannot be decrypted. The `cause` of this error is the error of Keyward.
 */
export function cachingClient(responses: KeywardKeyv): Got {
  const cache = new ResponseCache({
    store: responses,
    ttl: 24 * 60 * 60_000, // got sets no ttl, so that it can revalidate stale responses. Without a ttl, records never expire
    useKeyPrefix: false,
    throwOnErrors: true,
  });
  return got.extend({ cache });
}
