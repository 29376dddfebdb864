// got: a client whose cache of responses is encrypted.
import type { KeywardKeyv } from "@keyward/core";
import got, { type Got } from "got";
import { Keyv } from "keyv"; // version 5, the same installed copy as in got

/**
 * A client that keeps cacheable responses in a Keyv that `createKeyv` made. A request rejects with a `CacheError` if the
 * stored response cannot be decrypted. The `cause` of this error is the error of Keyward.
 */
export function cachingClient(responses: KeywardKeyv): Got {
  const cache = new Keyv({
    store: responses,
    ttl: 24 * 60 * 60_000, // got sets no ttl, so that it can revalidate stale responses. Without a ttl, records never expire
    useKeyPrefix: false,
    throwOnErrors: true,
  });
  return got.extend({ cache });
}
