import { setTimeout as sleep } from "node:timers/promises";
import {
  EncryptedStore,
  isAtomic,
  isNamespaced,
  isScannable,
  type KeyProvider,
  type Keyring,
  KeywardError,
  type StoredValue,
  type WrappableStore,
} from "@keyward/core";
import { scopeOfServiceRecord, serviceNamespace } from "../records/record-keys.ts";
import type { RecordKind, StoredRecord } from "../records/record-kind.ts";
import { SecretsError } from "../secrets-error.ts";
import { JointReads } from "./joint-reads.ts";
import { SeenRevisions } from "./seen-revisions.ts";

/**
 * The result of a change, and the record to write: `next` replaces the record. Without `next`, the record does not
 * change.
 */
export interface Decision<Value, Result> {
  readonly next?: Value;
  readonly result: Result;
}

/** Records that were read in one call to the store. */
export interface ReadBatch {
  /**
   * Returns the record that was read under a key. Returns `undefined` if the store has none.
   *
   * @throws SecretsError `RECORD_ROLLED_BACK`, `RECORD_INVALID`; the errors of `EncryptedStore.get`.
   */
  record<Value>(kind: RecordKind<Value>, key: string): StoredRecord<Value> | undefined;
}

/** The options of a {@link ServiceStore}. */
export interface ServiceStoreOptions {
  readonly store: WrappableStore;
  readonly keys: Keyring | KeyProvider;
  /** Registers this process in the store as a replica, so that a rotation waits for it. Default: false. */
  readonly replica?: boolean | undefined;
  /** How many decrypted records stay in memory for later reads: the option of `EncryptedStore`. Default: none. */
  readonly keepDecrypted?: number | undefined;
}

// Each failed attempt means that another process has changed the record.
const maxAttempts = 64;
const hurriedAttempts = 4;
const longestPauseMs = 20;
/** How many records a scan holds in memory at once: 4 MiB of values. */
const scannedAtOnce = 500;

/** The records of the secrets service: encrypted, checked after they were decrypted, and changed by compare-and-swap. */
export class ServiceStore {
  /** The store that encrypts the records, for a census and for `ready`. */
  readonly encrypted: EncryptedStore;
  readonly #store: WrappableStore;
  readonly #replace: NonNullable<EncryptedStore["replace"]>;
  readonly #seen = new SeenRevisions();
  readonly #joint: JointReads<number>;

  /**
   * Opens the records in a store, which the caller closes after {@link ServiceStore.disconnect}.
   *
   * @throws KeywardError `STORE_NOT_ATOMIC` if the store has no `replace`; the errors of `new EncryptedStore`.
   */
  constructor({ store, keys, replica = false, keepDecrypted }: ServiceStoreOptions) {
    const view = isNamespaced(store) ? store.namespaced(serviceNamespace) : store;
    this.encrypted = new EncryptedStore(view, {
      ...{ keys, scope: scopeOfServiceRecord, replica },
      ...(keepDecrypted === undefined ? {} : { keepDecrypted }),
    });
    this.#store = store;
    const { replace } = this.encrypted;
    if (!isAtomic(store) || replace === undefined) throw notAtomic();
    this.encrypted.namespace = serviceNamespace;
    this.#replace = replace;
    this.#joint = new JointReads(this.encrypted, () => this.#seen.readBegins());
  }

  /** Reads a record. Returns `undefined` if there is none. Throws like {@link ReadBatch.record}. */
  async read<Value>(kind: RecordKind<Value>, key: string): Promise<StoredRecord<Value> | undefined> {
    return (await this.readBatch([key])).record(kind, key);
  }

  /** Reads several records in one call to the store. */
  async readBatch(keys: readonly string[]): Promise<ReadBatch> {
    const began = this.#seen.readBegins();
    const found = keys.length === 0 ? [] : await this.encrypted.getManyOrErrors(keys);
    const byKey = new Map(keys.map((key, index) => [key, found[index]]));
    return { record: (kind, key) => this.#recordOf(kind, key, byKey.get(key), began) };
  }

  /**
   * Like {@link ServiceStore.readBatch}, but shares one call to the store with the other callers in the same turn of
   * the event loop.
   */
  async readJointly(keys: readonly string[]): Promise<ReadBatch> {
    const { records, begun } = await this.#joint.read(keys);
    return { record: (kind, key) => this.#recordOf(kind, key, records.get(key), begun) };
  }

  /** Returns the keys under which the store has a record, even if the record cannot be read. */
  async stored(keys: readonly string[]): Promise<ReadonlySet<string>> {
    const found = keys.length === 0 ? [] : await this.encrypted.getManyOrErrors(keys);
    return new Set(keys.filter((_, index) => found[index] !== undefined));
  }

  /** Whether {@link ServiceStore.keys} can be called. */
  get isScannable(): boolean {
    return isScannable(this.#store);
  }

  /**
   * Yields the keys of all records of the service, page by page. May yield a key twice.
   *
   * @throws KeywardError `STORE_NOT_SCANNABLE`.
   */
  async *keys(): AsyncGenerator<readonly string[], void> {
    const store = this.#store;
    if (!isScannable(store)) throw notScannable();
    let cursor: string | undefined;
    do {
      const page = await store.scan({ limit: scannedAtOnce, ...(cursor === undefined ? {} : { cursor }) });
      yield page.entries.filter(({ namespace }) => namespace === serviceNamespace).map(({ key }) => key);
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /**
   * Writes a record if there is none under its key. Returns whether the record was written.
   *
   * @param expires when the record expires, in milliseconds since the epoch. Default: never.
   */
  async create<Value>(
    kind: Pick<RecordKind<Value>, "revisionOf">,
    key: string,
    value: Value,
    expires?: number,
  ): Promise<boolean> {
    const text = textOf(value);
    const isCreated = await this.#replace(key, undefined, text, expires ?? null);
    // A store that repeats a call after a lost answer reports the second attempt, which finds the record of the first.
    if (!isCreated && (await this.encrypted.get(key)) !== text) return false;
    this.#note(kind, value);
    return true;
  }

  /** Replaces a record if it is still the one that was read. Returns whether the record was replaced. */
  async swap<Value>(kind: RecordKind<Value>, { key, text }: StoredRecord<Value>, next: Value): Promise<boolean> {
    const isSwapped = await this.#replace(key, text, textOf(next));
    if (isSwapped) this.#note(kind, next);
    return isSwapped;
  }

  /**
   * Reads a record, calls `decide`, and writes the record that `decide` returns. If another process has changed the
   * record in between, begins again. Returns the result of the last call of `decide`. If two processes write the same
   * text, both calls succeed. So if `decide` reserves something, its record must contain something unique.
   *
   * @throws SecretsError `SERVICE_BUSY` if other processes changed the record 64 times in the meantime; the errors of
   * `decide` and of {@link ReadBatch.record}.
   */
  async change<Value, Result>(
    kind: RecordKind<Value>,
    key: string,
    decide: (current: Value | undefined) => Decision<Value, Result>,
  ): Promise<Result> {
    let written: { readonly text: string; readonly result: Result } | undefined;
    for (let attempt = 1; attempt <= maxAttempts; attempt++) {
      const record = await this.read(kind, key);
      // The former attempt was made after all: the store repeated the call after a lost answer.
      if (written !== undefined && record?.text === written.text) return written.result;
      const { next, result } = decide(record?.value);
      if (next === undefined) return result;
      const isWritten = record === undefined ? await this.create(kind, key, next) : await this.swap(kind, record, next);
      if (isWritten) return result;
      written = { text: textOf(next), result };
      if (attempt > hurriedAttempts)
        await sleep(Math.random() * Math.min(longestPauseMs, 2 ** (attempt - hurriedAttempts)));
    }
    throw new SecretsError(
      "SERVICE_BUSY",
      `Other processes changed a ${kind.name} ${maxAttempts} times while this process tried to change it`,
      {
        hint: "Repeat the call. If this error returns, let fewer processes change the same record at the same time.",
      },
    );
  }

  /**
   * Deletes a record if `matches` returns true for it. A record that another process writes in the meantime is kept,
   * unless it matches too.
   */
  async delete<Value>(kind: RecordKind<Value>, key: string, matches: (current: Value) => boolean): Promise<void> {
    for (;;) {
      const record = await this.read(kind, key);
      if (record === undefined || !matches(record.value)) return;
      // A record whose expiry has passed is removed in the same step in which it is compared.
      if (await this.#replace(key, record.text, record.text, 0)) return;
    }
  }

  /** Writes a record, whatever is stored under its key. */
  async put<Value>(key: string, value: Value, expires: number): Promise<void> {
    await this.encrypted.set(key, textOf(value), expires);
  }

  /** Deletes records. A key without a record is ignored. */
  async remove(keys: readonly string[]): Promise<void> {
    if (keys.length > 0) await this.encrypted.deleteMany([...keys]);
  }

  /** Stops the heartbeat of this process, and disconnects this view of the store. */
  async disconnect(): Promise<void> {
    await this.encrypted.disconnect();
  }

  #recordOf<Value>(
    kind: RecordKind<Value>,
    key: string,
    found: StoredValue | KeywardError | undefined,
    began: number,
  ): StoredRecord<Value> | undefined {
    if (found === undefined) return undefined;
    if (found instanceof KeywardError) throw found;
    const value = typeof found === "string" ? parsed(kind, found) : undefined;
    if (typeof found !== "string" || value === undefined) throw invalidRecord(kind.name);
    const revision = kind.revisionOf?.(value);
    if (revision !== undefined && this.#seen.isRolledBack(revision.identity, revision.revision, began)) {
      throw rolledBack(kind.name, revision.revision);
    }
    this.#note(kind, value);
    return { key, text: found, value };
  }

  #note<Value>(kind: Pick<RecordKind<Value>, "revisionOf">, value: Value): void {
    const revision = kind.revisionOf?.(value);
    if (revision !== undefined) this.#seen.note(revision.identity, revision.revision);
  }
}

function textOf(value: unknown): string {
  return JSON.stringify(value);
}

function parsed<Value>({ schema, recent }: RecordKind<Value>, text: string): Value | undefined {
  const check = (unchecked: string) => schema.parse(JSON.parse(unchecked));
  try {
    return recent === undefined ? check(text) : recent.get(text, check);
  } catch {
    // The error of the parser quotes the record.
    return undefined;
  }
}

function invalidRecord(name: string): SecretsError {
  return new SecretsError("RECORD_INVALID", `A ${name} was decrypted, but is not of a form that this release reads`, {
    hint: "Update this process, because a later release of Keyward may have written the record. Otherwise restore the store from a backup.",
  });
}

function rolledBack(name: string, revision: number): SecretsError {
  return new SecretsError(
    "RECORD_ROLLED_BACK",
    `A ${name} has revision ${revision}, which is lower than a revision that this process has read before`,
    {
      hint: "If the store was restored from a backup, restart every process with `--revoke-tokens-before` and the time of the restore, and keep the flag for later starts. Otherwise someone who can write to the store has put back an old record: find out who, and set the secrets again.",
    },
  );
}

function notScannable(): KeywardError {
  return new KeywardError("STORE_NOT_SCANNABLE", "The store of the secrets service cannot be scanned", {
    hint: "Use a store that has `scan()`, such as SqliteStore or RedisStore of Keyward.",
  });
}

function notAtomic(): KeywardError {
  return new KeywardError("STORE_NOT_ATOMIC", "The store of the secrets service cannot replace a record atomically", {
    hint: "Use a store that has `replace()`, such as SqliteStore or RedisStore of Keyward.",
  });
}
