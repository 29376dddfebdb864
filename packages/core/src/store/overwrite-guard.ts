import { createHash, randomBytes } from "node:crypto";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { requireAddress } from "../store-interface/record.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import { keysIn } from "./check-record.ts";
import { isAbsent, type RecordCodec } from "./record-codec.ts";

// This number of marks takes about 10 MB of memory.
const defaultMaxMarks = 250_000;

/**
 * Marks each record that could not be read, and protects marked records from being overwritten. Before a write would
 * replace marked records, reads these records again. Refuses the write unless each of them can now be read, or was
 * deleted.
 */
export class OverwriteGuard {
  readonly #inner: WrappedStore;
  readonly #codec: RecordCodec;
  readonly #maxMarks: number;
  readonly #salt = randomBytes(16);
  /**
   * The marks of each namespace: digests of the keys of unreadable records, with the logical time of the last marking.
   */
  readonly #unreadable = new Map<string, Map<number, number>>();
  #logicalTime = 0;
  readonly #allowed = new Map<string, Set<number>>();
  #marks = 0;
  /**
   * The namespaces with too many unreadable records to mark all of them. In these namespaces, every record is read
   * before it is overwritten.
   */
  readonly #full = new Set<string>();

  constructor(inner: WrappedStore, codec: RecordCodec, maxMarks = defaultMaxMarks) {
    this.#inner = inner;
    this.#codec = codec;
    this.#maxMarks = maxMarks;
  }

  /** Marks a record that could not be read. */
  markUnreadable(namespace: string, key: string): void {
    const marks = atNamespace(this.#unreadable, namespace, () => new Map<number, number>());
    const mark = this.#markOf(key);
    this.#logicalTime++;
    if (marks.has(mark)) {
      marks.set(mark, this.#logicalTime);
      return;
    }
    if (this.#marks >= this.#maxMarks) {
      this.#full.add(namespace);
      return;
    }
    marks.set(mark, this.#logicalTime);
    this.#marks++;
  }

  /**
   * A counter that grows each time a record is marked. Note its value before a read, write or delete, and pass this
   * value to {@link OverwriteGuard.unmark} afterwards.
   */
  get logicalTime(): number {
    return this.#logicalTime;
  }

  /**
   * Removes the mark of a record that was deleted, written or read, and undoes {@link OverwriteGuard.allow}. Keeps a
   * mark that was set after `since`, because another process may have stored an unreadable record in the meantime.
   *
   * @param since the {@link OverwriteGuard.logicalTime} before the delete, write or read.
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

  /**
   * Undoes {@link OverwriteGuard.allow} for a record, but keeps its mark. Call this method after a delete that deleted
   * nothing, because an unreadable record may still be stored.
   */
  withdrawAllowance(namespace: string, key: string): void {
    const allowed = this.#allowed.get(namespace);
    if (allowed?.delete(this.#markOf(key)) === true && allowed.size === 0) this.#allowed.delete(namespace);
  }

  /**
   * Removes the marks of all records in a namespace that was cleared. Keeps marks that were set after `since`, as
   * {@link OverwriteGuard.unmark} does.
   */
  unmarkAll(namespace: string, since: number): void {
    const marks = this.#unreadable.get(namespace);
    for (const [mark, markedAt] of marks ?? []) if (markedAt <= since && marks?.delete(mark) === true) this.#marks--;
    if (marks?.size === 0) this.#unreadable.delete(namespace);
    this.#allowed.delete(namespace);
    this.#full.delete(namespace);
  }

  /** Allows the next write under `key` to replace the stored record, even if this record cannot be read. */
  allow(namespace: string, key: string): void {
    atNamespace(this.#allowed, namespace, () => new Set<number>()).add(this.#markOf(key));
  }

  /**
   * Verifies that every record under `keys` can be read. Returns `undefined` if none of these records is marked as
   * unreadable, otherwise a promise.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with one error for each record that still cannot be read.
   */
  requireReadable(namespace: string, keys: readonly string[]): Promise<void> | undefined {
    const [unreadable, allowed] = [this.#unreadable.get(namespace), this.#allowed.get(namespace)];
    const isFull = this.#full.has(namespace);
    if (unreadable === undefined && !isFull) return undefined;
    const marked = keys.filter((key) => {
      const mark = this.#markOf(key);
      if (allowed?.has(mark) === true) return false;
      return isFull || unreadable?.has(mark) === true;
    });
    return marked.length === 0 ? undefined : this.#readAgain(namespace, marked);
  }

  async #readAgain(namespace: string, keys: string[]): Promise<void> {
    const since = this.#logicalTime;
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
        errors.push(requireKeywardError(error));
      }
    }
    const [first] = errors;
    if (first === undefined) return;
    const problems = [
      ...new Set(errors.map(({ code, keyId }) => (keyId === undefined ? code : `${code} for key "${keyId}"`))),
    ];
    throw new KeywardError(
      "OVERWRITE_REFUSED",
      `Nothing was written: the write would replace ${errors.length} ${errors.length === 1 ? "record" : "records"} in ` +
        `${this.#inner.description} that cannot be read (${problems.slice(0, 5).join(", ")}). This process has ${keysIn(await this.#codec.ring())}`,
      {
        namespace,
        key: first.key,
        keyId: first.keyId,
        errors,
        cause: first,
        hint:
          "Follow the hint of each error in `error.errors`, which contains one error for each of these records. Only if a " +
          "record is to be discarded for good, delete the record, or call allowOverwrite(key) of the EncryptedStore " +
          "(keyv.encryptedStore) and write the record again.",
      },
    );
  }

  /**
   * Returns a short digest of a record's key. The digest is salted, so that an attacker cannot choose two keys with the
   * same digest.
   */
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
