import { setImmediate as nextTurn } from "node:timers/promises";
import { shapeOf } from "../envelope/value-shape.ts";
import { type KeywardErrorCode, requireKeywardError } from "../errors/errors.ts";
import { type EncryptedStoreOrKeyv, storeParts } from "../store/encrypted-store.ts";
import { isAbsent, isEncryptable, type RecordCodec } from "../store/record-codec.ts";
import { pages } from "../store-interface/page-size.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { ScannedRecord } from "../store-interface/store-capabilities.ts";
import { requireAtomic } from "../store-interface/wrapped-store.ts";
import { recordsPerTurn, reencrypt } from "./bulk-reencryption.ts";
import { scannableOf, withinRange } from "./census.ts";
import {
  type ReencryptOptions,
  type ReencryptReport,
  requirePace,
  requireReencryptOptions,
} from "./reencryption-options.ts";

/** Counts of the records that one format reads. */
export interface MigratedFormat {
  /** The name of the format. */
  readonly format: string;
  /** Number of records that the format reads. */
  readonly records: number;
  /**
   * Number of these records whose expiry has passed. If it is larger than you expect, an option of the format may be
   * wrong, such as `ttlMs`.
   */
  readonly expired: number;
  /**
   * False if the migration only reads these records, and does not encrypt them, because the format cannot detect a
   * wrong key and its `encryptUnauthenticated` is not true.
   */
  readonly encryptable: boolean;
}

/** A group of records that have the same form, and that cannot be read for the same reason. */
export interface UnreadRecords {
  /**
   * The form of the stored values, such as "hex(12 bytes):hex(16 bytes):hex(bytes)", to find a format that can read
   * them. Contains no part of the values.
   */
  readonly shape: string;
  /** The code of the error with which reading the records failed. */
  readonly code: KeywardErrorCode;
  /**
   * True if the code is `RECORD_NOT_SEALED` and `forbidPlaintext` was called for the namespaces of these records, so
   * that even the format `plaintext()` never reads them.
   */
  readonly plaintextForbidden: boolean;
  /** Number of records with this `shape`, this `code` and this `plaintextForbidden`. */
  readonly records: number;
  /**
   * The addresses of the first five records with this `shape` and this `code`. The keys of the records may be secrets.
   */
  readonly examples: readonly RecordAddress[];
}

/**
 * The result of {@link migrate}. Except in `reencryption`, the counts describe the records before the re-encryption.
 */
export interface MigrationReport {
  /** Number of records that the migration has read. */
  readonly scanned: number;
  /** Number of records that Keyward had encrypted before the migration, and that can be decrypted. */
  readonly envelopes: number;
  /** The formats in the option `accept` that read records, with the most used one first. */
  readonly formats: readonly MigratedFormat[];
  /**
   * The records that cannot be read, grouped by error code, by shape (the form of the stored value) and by `plaintextForbidden`,
   * with the largest group first. After 1,000 groups, all further records are counted in groups with the shape "other forms".
   */
  readonly unread: readonly UnreadRecords[];
  /** The report of the re-encryption. `undefined` for a dry run. */
  readonly reencryption: ReencryptReport | undefined;
  /**
   * True if every record could be read, and now either is encrypted under the primary or has expired. Always false for
   * a dry run.
   */
  readonly complete: boolean;
}

const maxGroups = 1_000;
/**
 * The shape for records that fit none of the first 1,000 groups. There is one such group for each error code and
 * `plaintextForbidden`.
 */
const otherShapes = "other forms";
const maxExamples = 5;

/**
 * Counts the records that each format reads, of the formats in the option `accept` of the store. Then encrypts these
 * records under the primary, as {@link reencrypt} does. Records that cannot be read stay as they are, and the report describes their
 * form, so that you can find the missing format. With `dryRun`, nothing is written.
 *
 * @param options the options of `reencrypt`. `maxPerSecond`, `onProgress` and `checkpoint` apply to the re-encryption, and
 * not to the survey of the records before it. If `signal` is aborted before the re-encryption begins, the call rejects
 * with the reason of the signal.
 * @throws KeywardError like `reencrypt`.
 * @example
 * const { formats, unread } = await migrate(sessions, { dryRun: true });
 * for (const { shape, code, records } of unread) console.log(`${records} × ${shape}: ${code}`);
 */
export async function migrate(store: EncryptedStoreOrKeyv, options: ReencryptOptions = {}): Promise<MigrationReport> {
  const { range, signal, namespaces, dryRun = false } = requireReencryptOptions("migrate", options);
  const { codec, inner } = storeParts(store);
  if (!dryRun) requireAtomic(inner);
  const survey = new Survey(codec.forOnePass());
  for await (const records of pages(withinRange(scannableOf(store), range), requirePace(options).batchSize)) {
    signal?.throwIfAborted();
    for (const [index, record] of records.entries()) {
      // Decryption blocks the event loop, which the application needs for its own calls.
      if (index % recordsPerTurn === recordsPerTurn - 1) {
        await nextTurn();
        signal?.throwIfAborted();
      }
      if (namespaces === undefined || namespaces.includes(record.namespace)) await survey.add(record);
    }
  }
  const reencryption = dryRun ? undefined : await reencrypt(store, options);
  const found = survey.report();
  // The survey decrypts the records under the primary, too. The re-encryption does not.
  return { ...found, reencryption, complete: reencryption?.complete === true && found.unread.length === 0 };
}

/** Counts that can be changed while records are read. */
type Counted<Counts> = { -readonly [Name in keyof Counts]: Counts[Name] };

interface Group {
  readonly shape: string;
  readonly code: KeywardErrorCode;
  readonly plaintextForbidden: boolean;
  records: number;
  readonly examples: RecordAddress[];
}

class Survey {
  readonly #codec: RecordCodec;
  readonly #formats = new Map<string, Counted<MigratedFormat>>();
  readonly #unread = new Map<string, Group>();
  #scanned = 0;
  #envelopes = 0;

  constructor(codec: RecordCodec) {
    this.#codec = codec;
  }

  async add({ namespace, key, value }: ScannedRecord): Promise<void> {
    this.#scanned++;
    const address = { namespace, key };
    try {
      const record = await this.#codec.open(value, address);
      if (record.keyId !== undefined) this.#envelopes++;
      else {
        await this.#codec.requireDecodable(record, address);
        this.#addFormat(record.format, isEncryptable(record), isAbsent(record));
      }
    } catch (error) {
      const { code } = requireKeywardError(error);
      const { encryptedNamespaces } = await this.#codec.ring();
      const plaintextForbidden = code === "RECORD_NOT_SEALED" && encryptedNamespaces.includes(namespace);
      this.#addUnread({ shape: shapeOf(value), code, plaintextForbidden }, address);
    }
  }

  report(): Pick<MigrationReport, "scanned" | "envelopes" | "formats" | "unread"> {
    const byRecords = (one: { readonly records: number }, other: { readonly records: number }) =>
      other.records - one.records;
    return {
      scanned: this.#scanned,
      envelopes: this.#envelopes,
      formats: [...this.#formats.values()].sort(byRecords),
      unread: [...this.#unread.values()].sort(byRecords),
    };
  }

  #addFormat(format: string, encryptable: boolean, hasExpired: boolean): void {
    const id = JSON.stringify([format, encryptable]);
    const counted = this.#formats.get(id) ?? { format, records: 0, expired: 0, encryptable };
    counted.records++;
    if (hasExpired) counted.expired++;
    this.#formats.set(id, counted);
  }

  #addUnread(kind: Pick<Group, "shape" | "code" | "plaintextForbidden">, address: RecordAddress): void {
    const id = JSON.stringify([kind.shape, kind.code, kind.plaintextForbidden]);
    const group = this.#unread.get(id);
    if (group !== undefined) {
      group.records++;
      if (group.examples.length < maxExamples) group.examples.push(address);
    } else if (this.#unread.size < maxGroups || kind.shape === otherShapes) {
      this.#unread.set(id, { ...kind, records: 1, examples: [address] });
    } else this.#addUnread({ ...kind, shape: otherShapes }, address);
  }
}
