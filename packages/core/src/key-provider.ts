import type { Keyring } from "./keyring.ts";

/**
 * Where a keyring comes from. Only `load` is required; the rest are things that some sources can do.
 * The core asks once for all its stores (single-flight), keeps the last good ring through an outage, and asks
 * again when a record names a key that the ring does not have.
 */
export interface KeyProvider {
  /**
   * The ring as the source has it now.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when the source does not answer or has nothing; `KEY_INVALID` or
   * `KEYRING_INVALID` when what it has is not a key or a ring.
   */
  load(options?: { readonly signal?: AbortSignal }): Promise<Keyring>;
  /**
   * Writes `next` if the source still holds `previous`.
   *
   * @throws KeywardError `KEYRING_CONFLICT` when somebody else was first.
   */
  save?(next: Keyring, previous: Keyring): Promise<void>;
  /** Calls `changed` whenever the source may hold another ring; returns what ends it. Must not keep a process alive. */
  subscribe?(changed: () => void): () => void;
}
