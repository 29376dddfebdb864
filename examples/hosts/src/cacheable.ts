// cacheable: a cache with an encrypted primary or secondary store.
import type { KeywardKeyv } from "@keyward/core";
import { Cacheable } from "cacheable";
import { Keyv } from "keyv"; // version 5, as in cacheable

/** Makes the Keyv 5 that cacheable needs over a Keyv that `createKeyv` made. */
function encrypted(users: KeywardKeyv): Keyv {
  // Without `throwOnErrors`, Keyv 5 answers a record that cannot be decrypted like a missing record.
  return new Keyv({ store: users, useKeyPrefix: false, throwOnErrors: true });
}

/**
 * A cache with an unencrypted primary store in the memory of this process, and an encrypted secondary store, such as Redis.
 *
 * @param report is called with each error. cacheable emits the error of a record that cannot be decrypted, and then answers
 * as for a missing record. Without a listener, the error is lost.
 */
export function cacheWithEncryptedSecondary(users: KeywardKeyv, report: (error: unknown) => void): Cacheable {
  const cache = new Cacheable({ secondary: encrypted(users), ttl: "10m" });
  cache.on("error", report);
  return cache;
}

/** A cache whose only store is encrypted. */
export function cacheWithEncryptedPrimary(users: KeywardKeyv, report: (error: unknown) => void): Cacheable {
  const cache = new Cacheable({ primary: encrypted(users), ttl: "10m" });
  cache.on("error", report);
  return cache;
}
