import { requirePlace } from "./envelope.ts";
import { KeywardError } from "./errors.ts";
import type { InnerStore } from "./inner-store.ts";
import { keysIn } from "./keyring.ts";
import type { RecordCodec } from "./record-codec.ts";

const maxMarks = 10_000;

/**
 * Remembers which records could not be opened, and lets nobody write over one before it was read again and either
 * opened or had gone.
 */
export class OverwriteGuard {
  readonly #inner: InnerStore;
  readonly #codec: RecordCodec;
  readonly #unreadable = new Set<string>();
  readonly #allowed = new Set<string>();
  // More were unreadable than can be remembered: from then on every record is read before it is overwritten.
  #full = false;

  constructor(inner: InnerStore, codec: RecordCodec) {
    this.#inner = inner;
    this.#codec = codec;
  }

  /** A record could not be opened. */
  mark(namespace: string, key: string): void {
    if (this.#unreadable.size < maxMarks) this.#unreadable.add(markOf(namespace, key));
    else this.#full = true;
  }

  /** A record was deleted or written, or was opened after all: what lies there now can be read. */
  lift(namespace: string, key: string): void {
    if (this.#allowed.size > 0) this.#allowed.delete(markOf(namespace, key));
    if (this.#unreadable.size > 0) this.#unreadable.delete(markOf(namespace, key));
  }

  /** A namespace was cleared. */
  liftAll(namespace: string): void {
    const prefix = markOf(namespace, "");
    for (const marks of [this.#unreadable, this.#allowed]) {
      for (const mark of marks) if (mark.startsWith(prefix)) marks.delete(mark);
    }
    if (this.#unreadable.size === 0) this.#full = false;
  }

  /** The next write of this record may destroy what lies there. */
  allow(namespace: string, key: string): void {
    this.#allowed.add(markOf(namespace, key));
  }

  /**
   * Resolves when these records may be overwritten, `undefined` when that is known already.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with one error for each record that is still unreadable.
   */
  admit(namespace: string, keys: readonly string[]): Promise<void> | undefined {
    if (this.#unreadable.size === 0 && !this.#full) return undefined;
    const doubtful = keys.filter((key) => {
      const mark = markOf(namespace, key);
      if (this.#allowed.has(mark)) return false;
      return this.#full || this.#unreadable.has(mark);
    });
    return doubtful.length === 0 ? undefined : this.#readAgain(namespace, doubtful);
  }

  async #readAgain(namespace: string, keys: string[]): Promise<void> {
    const stored = await this.#inner.getMany(keys);
    const errors: KeywardError[] = [];
    for (const [index, key] of keys.entries()) {
      const value = stored[index];
      try {
        if (value !== undefined && value !== null) await this.#codec.open(value, requirePlace(namespace, key));
        this.lift(namespace, key);
      } catch (error) {
        if (!(error instanceof KeywardError)) throw error;
        errors.push(error);
      }
    }
    const [first] = errors;
    if (first === undefined) return;
    const problems = [
      ...new Set(errors.map(({ code, keyId }) => (keyId === undefined ? code : `${code} for key "${keyId}"`))),
    ];
    throw new KeywardError(
      "OVERWRITE_REFUSED",
      `Nothing was written: ${errors.length} of ${keys.length} records to overwrite in ${this.#inner.description} cannot be ` +
        `opened (${problems.slice(0, 5).join(", ")}). This process has ${keysIn(await this.#codec.ring())}`,
      {
        namespace,
        key: first.key,
        keyId: first.keyId,
        errors,
        cause: first,
        hint:
          "Bring back the key or the record: error.errors says what each needs. Only to discard a record: delete it, or call " +
          "allowOverwrite(key) of the EncryptedStore (keyv.encryptedStore) before the write.",
      },
    );
  }
}

/** Its length in front keeps namespace and key apart, whatever they contain. */
function markOf(namespace: string, key: string): string {
  return `${namespace.length}:${namespace}:${key}`;
}
