// cache-manager: a cache whose store is encrypted.
import type { KeywardKeyv } from "@keyward/core";
import { type Cache, createCache } from "cache-manager";
import { Keyv } from "keyv"; // version 5, as in cache-manager

/**
 * A cache over a Keyv that `createKeyv` made.
 *
 * @param report is called with each error. If a record cannot be decrypted, `get` of cache-manager answers as for a missing
 * record. `wrap` computes the value, and then rejects with OVERWRITE_REFUSED.
 */
export function encryptedCache(pages: KeywardKeyv, report: (error: unknown) => void): Cache {
  const keyv = new Keyv({ store: pages, useKeyPrefix: false, throwOnErrors: true });
  // The events of cache-manager have the error of `get` but not that of `wrap`. The Keyv emits both.
  keyv.on("error", report);
  return createCache({ stores: [keyv], ttl: 10 * 60_000 });
}
