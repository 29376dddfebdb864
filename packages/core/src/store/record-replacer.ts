import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import {
  expiryToSet,
  type RecordAddress,
  type RecordContent,
  recordError,
  requireAddress,
} from "../store-interface/record.ts";
import { requireNewExpires, requireValue, sameStored } from "../store-interface/store-arguments.ts";
import {
  type AtomicStore,
  isStoredValue,
  type Replacement,
  type StoredValue,
} from "../store-interface/store-capabilities.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import type { OverwriteGuard } from "./overwrite-guard.ts";
import { isAbsent, isEncryptable, isForeign, type OpenedRecord, type RecordCodec } from "./record-codec.ts";
import { unreadable } from "./record-reader.ts";
import type { StoreAttachment } from "./store-attachment.ts";
import type { WriteGate } from "./write-gate.ts";

/** The parts of a store that {@link RecordReplacer} uses. */
export interface RecordReplacerParts {
  readonly attachment: StoreAttachment;
  readonly inner: WrappedStore;
  readonly atomic: AtomicStore;
  readonly codec: RecordCodec;
  readonly guard: OverwriteGuard;
  readonly writeGate: WriteGate;
  readonly source: KeyringSource;
}

/** A change of one record, whose new content depends on the decrypted content of the record. */
interface Change {
  readonly address: RecordAddress;
  /**
   * Returns the new content; `undefined` if the record must stay as it is.
   *
   * @param current the decrypted content; `undefined` if there is no record or it has expired.
   */
  readonly next: (current: RecordContent | undefined) => RecordContent | undefined;
  /** The expiry that the caller passed: `null` for a record that never expires, `undefined` to keep the expiry. */
  readonly expires: number | null | undefined;
  /** True if the change replaces the value. False if the change only sets the expiry. */
  readonly replacesValue: boolean;
}

/** A change of a record that was read: the stored value, the decrypted record, and the new content. */
interface PlannedChange {
  readonly index: number;
  readonly change: Change;
  readonly stored: StoredValue | undefined;
  readonly record: OpenedRecord | undefined;
  readonly content: RecordContent;
}

// Maximum number of attempts for a record that other processes change. Each failed attempt means that another process
// has written the record.
const maxAttempts = 64;
// Attempts without a pause. Before each further attempt, a random and growing pause lets other processes write the same
// record first.
const hurriedAttempts = 4;
const longestPauseMs = 20;

/**
 * Replaces a record if its decrypted value equals the value that the caller expects. Reads and decrypts the record,
 * compares the value, and replaces the record only if its stored bytes are still the same. If another process has
 * changed these bytes in between, for example by re-encryption, reads the record again.
 */
export class RecordReplacer {
  readonly #parts: RecordReplacerParts;
  /** For each record, a promise that resolves when the last running change of the record has ended. Never rejects. */
  readonly #running = new Map<string, Promise<void>>();

  constructor(parts: RecordReplacerParts) {
    this.#parts = parts;
  }

  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires: number | null | undefined,
  ): Promise<boolean> {
    const namespace = this.#parts.attachment.namespaceForCall();
    const change = replacementOf(namespace, { key, expected, next, expires });
    return await this.#one(change);
  }

  async replaceMany(replacements: readonly Replacement[]): Promise<boolean[]> {
    const namespace = this.#parts.attachment.namespaceForCall();
    const changes = replacements.map((replacement) => replacementOf(namespace, replacement));
    const made = changes.map(() => false);
    // Two replacements of one record depend on each other, so they are made one after the other.
    for (const wave of wavesOf(changes)) {
      const results = wave.map(() => false);
      try {
        await this.#make(
          wave.map((index) => at(changes, index)),
          results,
          (errors) => unreadable(errors, errors.length, changes.length),
        );
      } catch (error) {
        throw [...made, ...results].includes(true) ? partlyMade(requireKeywardError(error)) : error;
      }
      for (const [position, index] of wave.entries()) made[index] = results[position] === true;
    }
    return made;
  }

  async touch(key: string, expires: number | null): Promise<boolean> {
    const address = requireAddress(this.#parts.attachment.namespaceForCall(), key);
    const until = requireNewExpires(key, expires);
    if (until === undefined) {
      throw new KeywardError("VALUE_INVALID", "touch() needs an expiry", {
        hint: "Pass a time in milliseconds since the epoch, or `null` for a record that never expires.",
      });
    }
    return await this.#one({
      address,
      expires: until,
      replacesValue: false,
      next: (current) => (current === undefined ? undefined : contentOf(current.value, until ?? undefined)),
    });
  }

  async #one(change: Change): Promise<boolean> {
    const made = [false];
    await this.#make([change], made, ([error]) => requireKeywardError(error));
    return made[0] === true;
  }

  /**
   * Makes changes of different records, after all running changes of these records through this store have ended. So
   * two calls never change the same record at the same time. Sets the element of `made` to true for each change that
   * was made, even if the call rejects. `toError` combines the errors of all records that cannot be read into one
   * error.
   */
  async #make(
    changes: readonly Change[],
    made: boolean[],
    toError: (errors: readonly KeywardError[]) => KeywardError,
  ): Promise<void> {
    const names = changes.map(({ address }) => `${address.namespace}\0${address.key}`);
    const running = names.flatMap((name) => this.#running.get(name) ?? []);
    const make = () => this.#parts.source.whileSealing(this.#makeAll(changes, made, toError));
    const making = running.length === 0 ? make() : Promise.all(running).then(make);
    const ended = making.then(
      () => undefined,
      () => undefined,
    );
    for (const name of names) this.#running.set(name, ended);
    try {
      await making;
    } finally {
      for (const name of names) if (this.#running.get(name) === ended) this.#running.delete(name);
    }
  }

  async #makeAll(
    changes: readonly Change[],
    made: boolean[],
    toError: (errors: readonly KeywardError[]) => KeywardError,
  ): Promise<void> {
    let pending: readonly number[] = [...changes.keys()];
    for (let attempt = 1; pending.length > 0; attempt++) {
      if (attempt > maxAttempts) throw overtaken(at(changes, pending[0] ?? 0).address);
      if (attempt > hurriedAttempts) await sleep(pauseMsBefore(attempt));
      pending = await this.#attempt(changes, pending, made, toError);
    }
  }

  /**
   * Tries the pending changes once, and sets the element of `made` to true for each change that was made. Returns the
   * indexes of the changes whose record another process changed first.
   */
  async #attempt(
    changes: readonly Change[],
    pending: readonly number[],
    made: boolean[],
    toError: (errors: readonly KeywardError[]) => KeywardError,
  ): Promise<readonly number[]> {
    const { guard } = this.#parts;
    const since = guard.logicalTime;
    const planned = await this.#plan(changes, pending, toError);
    if (planned.length === 0) return [];
    const replaced = await this.#replace(planned);
    const overtakenIndexes: number[] = [];
    for (const [position, { index, change }] of planned.entries()) {
      if (replaced[position] !== true) {
        overtakenIndexes.push(index);
        continue;
      }
      made[index] = true;
      if (change.replacesValue) guard.unmark(change.address.namespace, change.address.key, since);
    }
    return overtakenIndexes;
  }

  /** Reads and decrypts the records of the pending changes, and returns the changes to make. */
  async #plan(
    changes: readonly Change[],
    pending: readonly number[],
    toError: (errors: readonly KeywardError[]) => KeywardError,
  ): Promise<PlannedChange[]> {
    const { inner, codec, guard } = this.#parts;
    const keys = pending.map((index) => at(changes, index).address.key);
    const [only] = keys;
    const found = keys.length === 1 && only !== undefined ? [await inner.get(only)] : await inner.getMany(keys);
    const planned: PlannedChange[] = [];
    const errors: KeywardError[] = [];
    for (const [position, index] of pending.entries()) {
      const change = at(changes, index);
      const raw = found[position] ?? undefined;
      try {
        const opened =
          raw === undefined
            ? undefined
            : (codec.openAtOnce(raw, change.address) ?? (await codec.open(raw, change.address)));
        const record = opened === undefined || isAbsent(opened) ? undefined : opened;
        if (record !== undefined && isForeign(record)) {
          if (!change.replacesValue && !isEncryptable(record)) {
            errors.push(unauthenticated(change.address));
            continue;
          }
          await codec.requireDecodable(record, change.address);
        }
        const content = change.next(record?.content);
        // `open` accepts only strings and bytes.
        if (content !== undefined) planned.push({ index, change, stored: asStored(raw), record, content });
      } catch (error) {
        guard.markUnreadable(change.address.namespace, change.address.key);
        errors.push(requireKeywardError(error));
      }
    }
    if (errors.length > 0) throw toError(errors);
    return planned;
  }

  /**
   * Encrypts the new contents, and replaces each record that has not changed since it was read. Returns one boolean for
   * each change: true if its record was replaced.
   */
  async #replace(planned: readonly PlannedChange[]): Promise<boolean[]> {
    const { inner, atomic, writeGate } = this.#parts;
    const gated = writeGate.keyringForWriting();
    const keyring = gated instanceof Promise ? await gated : gated;
    for (const { change } of planned) {
      inner.requireNamespace(change.address.namespace);
      if (!change.replacesValue && keyring.primary === "") throw noEnvelope();
    }
    const positions: number[] = [];
    const replacements: Replacement[] = [];
    for (const [position, plan] of planned.entries()) {
      // If the key was disabled since the read, the record may be forged. The next attempt rejects it.
      const keyId = plan.record?.keyId;
      if (keyId !== undefined && !isEnabled(keyring, keyId)) continue;
      positions.push(position);
      replacements.push(this.#replacementFor(keyring, plan));
    }
    const made = planned.map(() => false);
    const replaced = await inner.replaceMany(atomic, replacements);
    for (const [index, position] of positions.entries()) made[position] = replaced[index] === true;
    return made;
  }

  #replacementFor(keyring: Keyring, { change, stored, record, content }: PlannedChange): Replacement {
    const { address } = change;
    return {
      key: address.key,
      expected: stored,
      next: this.#parts.codec.seal(keyring, address, content),
      expires: storeExpiryOf(change.expires, stored, record),
    };
  }
}

function replacementOf(namespace: string, replacement: Replacement): Change {
  if (typeof replacement !== "object" || replacement === null)
    throw invalidReplacement("A change in the list that was passed to replaceMany() is not an object");
  const { key, expected, next, expires } = replacement;
  if (expected !== undefined && !isStoredValue(expected)) {
    throw invalidReplacement("The value `expected` of replace() or replaceMany() must be a string, bytes or undefined");
  }
  if (!isStoredValue(next))
    throw invalidReplacement("The value `next` of replace() or replaceMany() must be a string or bytes");
  const address = requireAddress(namespace, key);
  const compared = expected === undefined ? undefined : requireValue(key, expected);
  const given = requireValue(key, next);
  // The caller may change the bytes while the call waits.
  const value = typeof given === "string" ? given : Uint8Array.from(given);
  const until = requireNewExpires(key, expires);
  return {
    address,
    expires: until,
    replacesValue: true,
    next: (current) => {
      if (!sameStored(current?.value, compared)) return undefined;
      return contentOf(value, until === undefined ? current?.expires : (until ?? undefined));
    },
  };
}

function invalidReplacement(problem: string): KeywardError {
  return new KeywardError("VALUE_INVALID", problem, {
    hint:
      "Call replace(key, expected, next), or replaceMany with a list of { key, expected, next }. Pass `undefined` as " +
      "`expected` if there must be no record. The values are those that EncryptedStore.get returns: strings and bytes.",
  });
}

function contentOf(value: StoredValue, expires: number | undefined): RecordContent {
  return expires === undefined ? { value } : { value, expires };
}

/** Returns the expiry to pass to the wrapped store; `undefined` to keep the expiry that is stored there. */
function storeExpiryOf(
  wanted: number | null | undefined,
  stored: StoredValue | undefined,
  record: OpenedRecord | undefined,
): number | null | undefined {
  // A record that is not stored has no expiry to keep.
  if (wanted !== undefined || stored === undefined) return wanted;
  // A record that has expired by the clock of this process may still be in the store, whose clock may be behind. The new
  // record must not keep the expiry of that record.
  if (record === undefined) return null;
  // The store may not know the expiry that a foreign record contains.
  return isForeign(record) ? expiryToSet(record.content) : undefined;
}

/**
 * Divides changes into lists of their indexes, to be made one list after the other. No list has two changes of the same
 * record. The changes of one record keep their order.
 */
function wavesOf(changes: readonly Change[]): number[][] {
  const waves: number[][] = [];
  const nextWave = new Map<string, number>();
  for (const [index, { address }] of changes.entries()) {
    const wave = nextWave.get(address.key) ?? 0;
    nextWave.set(address.key, wave + 1);
    const members = waves[wave];
    if (members === undefined) waves.push([index]);
    else members.push(index);
  }
  return waves;
}

function at<Item>(items: readonly Item[], index: number): Item {
  const item = items[index];
  if (item === undefined) throw new RangeError(`There is no item ${index}`);
  return item;
}

function asStored(raw: unknown): StoredValue | undefined {
  return isStoredValue(raw) ? raw : undefined;
}

function noEnvelope(): KeywardError {
  return new KeywardError(
    "KEYRING_INVALID",
    "touch() needs a keyring with a key, but the keyring of this store has no keys",
    {
      hint: "Use a keyring with a key. To keep the records unencrypted, write the value again with its new expiry.",
    },
  );
}

/** Returns a random pause before an attempt, in milliseconds. The upper limit of the pause grows with each attempt. */
function pauseMsBefore(attempt: number): number {
  return Math.random() * Math.min(longestPauseMs, 2 ** (attempt - hurriedAttempts));
}

function unauthenticated(address: RecordAddress): KeywardError {
  return recordError("RECORD_NOT_SEALED", address, "is in a foreign format that cannot detect a wrong key", {
    hint:
      "To set an expiry, touch() would encrypt the decrypted record, which may be garbage. Write the record with set(), or " +
      "set `encryptUnauthenticated` of its format after you have verified that the format reads your records correctly.",
  });
}

function overtaken(address: RecordAddress): KeywardError {
  return recordError(
    "STORE_UNAVAILABLE",
    address,
    `was not replaced, because other processes changed it ${maxAttempts} times during the call`,
    {
      hint: "Repeat the call. If the same error occurs again, let fewer processes write this record at the same time.",
    },
  );
}

/** Returns an error like `error`, but with a hint that some changes of the batch were made. */
function partlyMade(error: KeywardError): KeywardError {
  const { code, message, key, namespace, keyId, errors } = error;
  return new KeywardError(code, message, {
    key,
    namespace,
    keyId,
    ...(errors === undefined ? {} : { errors }),
    cause: error,
    hint: "Some changes of this batch were made. Read the records before you repeat the changes that are left.",
  });
}
