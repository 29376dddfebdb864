import { createHash, randomBytes } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { keysIn } from "../keyring/keyring.ts";
import type { InnerStore } from "../store-interface/inner-store.ts";
import { requireAddress } from "../store-interface/record.ts";
import { isAbsent, type RecordCodec } from "./record-codec.ts";

/** About 10 MB of marks. */
const defaultMaxMarks = 250_000;

/**
 * Remembers which records could not be opened, and lets nobody write over one before it was read again and either
 * opened or had gone.
 */
export class OverwriteGuard {
  readonly #inner: InnerStore;
  readonly #codec: RecordCodec;
  readonly #maxMarks: number;
  readonly #salt = randomBytes(16);
  /** By namespace, short digests of the keys, which are small, however long a key is; and when each was last marked. */
  readonly #unreadable = new Map<string, Map<number, number>>();
  #now = 0;
  readonly #allowed = new Map<string, Set<number>>();
  #marks = 0;
  /** The namespaces with records that could not be remembered: there, every record is read before it is overwritten. */
  readonly #full = new Set<string>();

  constructor(inner: InnerStore, codec: RecordCodec, maxMarks = defaultMaxMarks) {
    this.#inner = inner;
    this.#codec = codec;
    this.#maxMarks = maxMarks;
  }

  /** A record could not be opened. */
  markUnreadable(namespace: string, key: string): void {
    const marks = atNamespace(this.#unreadable, namespace, () => new Map<number, number>());
    const mark = this.#markOf(key);
    this.#now++;
    if (marks.has(mark)) {
      marks.set(mark, this.#now);
      return;
    }
    if (this.#marks >= this.#maxMarks) {
      this.#full.add(namespace);
      return;
    }
    marks.set(mark, this.#now);
    this.#marks++;
  }

  /** A point in time, for {@link OverwriteGuard.unmark}. */
  get logicalTime(): number {
    return this.#now;
  }

  /**
   * A record was deleted or written, or was opened after all: what lies there now can be read.
   *
   * @param since {@link now} before that began: what could not be opened since may have been written after it.
   */
  unmark(namespace: string, key: string, since: number): void {
    const [allowed, unreadable] = [this.#allowed.get(namespace), this.#unreadable.get(namespace)];
    if (allowed === undefined && unreadable === undefined) return;
    const mark = this.#markOf(key);
    if (allowed?.delete(mark) === true && allowed.size === 0) this.#allowed.delete(namespace);
    const markedAt = unreadable?.get(mark);
    if (unreadable === undefined || markedAt === undefined || markedAt > since) return;
    unreadable.delete(mark);
    this.#marks--;
    if (unreadable.size === 0) this.#unreadable.delete(namespace);
  }

  /** A record was to be deleted, and the store says that it deleted nothing: what lies there, if anything, stays guarded. */
  withdrawAllowance(namespace: string, key: string): void {
    const allowed = this.#allowed.get(namespace);
    if (allowed?.delete(this.#markOf(key)) === true && allowed.size === 0) this.#allowed.delete(namespace);
  }

  /** A namespace was cleared, which began at `since`: see {@link OverwriteGuard.unmark}. */
  unmarkAll(namespace: string, since: number): void {
    const marks = this.#unreadable.get(namespace);
    for (const [mark, markedAt] of marks ?? []) if (markedAt <= since && marks?.delete(mark) === true) this.#marks--;
    if (marks?.size === 0) this.#unreadable.delete(namespace);
    this.#allowed.delete(namespace);
    this.#full.delete(namespace);
  }

  /** The next write of this record may destroy what lies there. */
  allow(namespace: string, key: string): void {
    atNamespace(this.#allowed, namespace, () => new Set<number>()).add(this.#markOf(key));
  }

  /**
   * Resolves when these records may be overwritten, `undefined` when that is known already.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with one error for each record that is still unreadable.
   */
  requireReadable(namespace: string, keys: readonly string[]): Promise<void> | undefined {
    const [unreadable, allowed] = [this.#unreadable.get(namespace), this.#allowed.get(namespace)];
    const full = this.#full.has(namespace);
    if (unreadable === undefined && !full) return undefined;
    const doubtful = keys.filter((key) => {
      const mark = this.#markOf(key);
      if (allowed?.has(mark) === true) return false;
      return full || unreadable?.has(mark) === true;
    });
    return doubtful.length === 0 ? undefined : this.#readAgain(namespace, doubtful);
  }

  async #readAgain(namespace: string, keys: string[]): Promise<void> {
    const since = this.#now;
    const stored = await this.#inner.getMany(keys);
    const errors: KeywardError[] = [];
    for (const [index, key] of keys.entries()) {
      const value = stored[index];
      try {
        if (value !== undefined && value !== null) {
          const address = requireAddress(namespace, key);
          const record = await this.#codec.open(value, address);
          if (!isAbsent(record)) await this.#codec.decode(record.content.value, address);
        }
        this.unmark(namespace, key, since);
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

  /** Salted, so that a key which has the digest of another cannot be chosen. */
  #markOf(key: string): number {
    return createHash("sha256").update(this.#salt).update(key).digest().readUIntBE(0, 6);
  }
}

function atNamespace<Marks>(marks: Map<string, Marks>, namespace: string, create: () => Marks): Marks {
  let found = marks.get(namespace);
  if (found === undefined) {
    found = create();
    marks.set(namespace, found);
  }
  return found;
}
