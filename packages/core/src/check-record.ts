import type { AtomicStore, ScannableStore, StoredValue } from "./capabilities.ts";
import { type Place, readHeader } from "./envelope.ts";
import { KeywardError } from "./errors.ts";
import { wrapRejection } from "./inner-store.ts";
import type { Keyring } from "./keyring.ts";
import type { OpenedRecord, RecordCodec } from "./record-codec.ts";

/** The namespace that records of the reserved space are sealed for. No record of a user can claim it. */
export const reservedNamespace = "\0keyward";

/**
 * A sealed record in the reserved space that a ring must open before it writes anything: a process with the wrong key
 * learns so at its first write, and not by destroying what it cannot read.
 */
export class CheckRecord {
  readonly #reserved: (AtomicStore & ScannableStore) | undefined;
  readonly #codec: RecordCodec;
  readonly #place: Place;
  readonly #passed = new WeakSet<Keyring>();
  readonly #passing = new WeakMap<Keyring, Promise<void>>();

  constructor(reserved: (AtomicStore & ScannableStore) | undefined, codec: RecordCodec, scope: string | undefined) {
    this.#reserved = reserved;
    this.#codec = codec;
    this.#place = { namespace: reservedNamespace, key: scope === undefined ? "check" : `check/${scope}` };
  }

  /**
   * Resolves when this ring may write, `undefined` when it is known already.
   *
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring cannot open the record.
   */
  pass(ring: Keyring): Promise<void> | undefined {
    if (this.#reserved === undefined || this.#passed.has(ring)) return undefined;
    let passing = this.#passing.get(ring);
    if (passing === undefined) {
      passing = this.#verify(this.#reserved, ring)
        .then(() => {
          this.#passed.add(ring);
        })
        .finally(() => this.#passing.delete(ring));
      this.#passing.set(ring, passing);
    }
    return passing;
  }

  /** Seals the record under the ring's primary, so that no key is needed for its sake alone. */
  async renew(ring: Keyring): Promise<void> {
    if (this.#reserved === undefined || ring.primary === "") return;
    const reserved = this.#reserved;
    const stored = await this.#read(reserved);
    if (stored === undefined) return;
    const { current } = await this.#open(stored);
    if (!current) await wrapRejection(() => reserved.replace(this.#place.key, stored, this.#sealed(ring)));
  }

  /** Writes the record anew under the ring's primary, whether or not the ring opens the one that lies there. */
  async overwrite(ring: Keyring): Promise<void> {
    const reserved = this.#reserved;
    if (reserved === undefined || ring.primary === "") return;
    await wrapRejection(() => reserved.set(this.#place.key, this.#sealed(ring)));
  }

  async #verify(reserved: AtomicStore & ScannableStore, ring: Keyring): Promise<void> {
    let stored = await this.#read(reserved);
    if (stored === undefined) {
      if (ring.primary === "") return;
      // Only one of several new processes may found the store; the others must open what it wrote.
      if (await wrapRejection(() => reserved.replace(this.#place.key, undefined, this.#sealed(ring)))) return;
      stored = await this.#read(reserved);
      if (stored === undefined) return await this.#verify(reserved, ring);
    }
    const { content, current } = await this.#open(stored);
    if (!current && generationOf(content.value) < ring.generation) {
      const unchanged = stored;
      await wrapRejection(() => reserved.replace(this.#place.key, unchanged, this.#sealed(ring)));
    }
  }

  async #read(reserved: AtomicStore): Promise<StoredValue | undefined> {
    const stored: unknown = await wrapRejection(() => reserved.get(this.#place.key));
    return typeof stored === "string" || stored instanceof Uint8Array ? stored : undefined;
  }

  async #open(stored: StoredValue): Promise<OpenedRecord> {
    try {
      if (readHeader(stored, this.#place) !== undefined) return await this.#codec.open(stored, this.#place);
    } catch (cause) {
      throw refused(cause);
    }
    throw refused(undefined);
  }

  #sealed(ring: Keyring): StoredValue {
    return this.#codec.seal(ring, this.#place, {
      value: JSON.stringify({ keyward: "check", generation: ring.generation }),
    });
  }
}

/** Which generation of the ring wrote the record: an older one must not take it back under its own primary. */
function generationOf(value: StoredValue): number {
  const content: unknown = JSON.parse(String(value));
  const generation =
    typeof content === "object" && content !== null && "generation" in content ? content.generation : undefined;
  return typeof generation === "number" ? generation : 0;
}

function refused(cause: unknown): KeywardError {
  const keyId = cause instanceof KeywardError ? cause.keyId : undefined;
  return new KeywardError(
    "OVERWRITE_REFUSED",
    "Nothing was written: this keyring cannot open the store's check record, so it could not read what it would overwrite",
    {
      keyId,
      cause,
      hint: "Give this process the keyring the store was written with. If that ring is gone for good: store.overwriteCheckRecord().",
    },
  );
}
