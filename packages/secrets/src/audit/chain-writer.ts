import { hostname } from "node:os";
import { performance } from "node:perf_hooks";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { type EncryptedStore, KeywardError } from "@keyward/core";
import { newId } from "../records/ids.ts";
import { type AuditEntry, columnsOf, type EntryDraft, firstHash, hashAfter, namesOf, newNonce } from "./audit-entry.ts";
import { auditClosed, cannotWrite, invalidRegistry, notWrittenInTime, tooManyWait } from "./audit-errors.ts";
import type { AuditNames, DictionaryName } from "./audit-names.ts";
import type { EntryTags, NewEntryRow } from "./audit-rows.ts";
import type { AuditTable } from "./audit-table.ts";
import { formatHead, parseHead, parseRegistry } from "./chain-proof.ts";
import { formatRecordKey, registryKey } from "./record-key.ts";

/** The place of an entry that is durable. */
export interface WrittenEntry {
  readonly chain: string;
  readonly sequence: number;
}

/** The parts and bounds of a {@link ChainWriter}. */
export interface ChainWriterOptions {
  readonly path: string;
  readonly table: AuditTable;
  readonly encrypted: EncryptedStore;
  readonly names: AuditNames;
  /** How long an entry may wait to be written, in milliseconds. After this time, `write` rejects. */
  readonly longestWaitMs: number;
  /** How many entries may wait. */
  readonly maxWaiting: number;
}

interface WaitingEntry {
  readonly workspace: string;
  readonly draft: EntryDraft;
  readonly deadlineMs: number;
  /** True if the caller does nothing when `write` rejects, so that the entry need not be written. */
  readonly withdrawable: boolean;
  settled: boolean;
  readonly resolve: (written: WrittenEntry) => void;
  readonly reject: (error: unknown) => void;
}

interface BuiltEntry {
  readonly entry: AuditEntry;
  readonly text: string;
  readonly hash: Uint8Array;
  readonly waiting: WaitingEntry | undefined;
}

interface Chain {
  readonly workspace: string;
  readonly id: string;
  /** The number of the chain in the file. `undefined` until the chain is in the file. */
  number: number | undefined;
  sequence: number;
  hash: Uint8Array;
}

// The entries of a batch are encrypted at once, which holds the event loop for about 50 µs an entry.
const mostInBatch = 64;
const longestPauseMs = 1_000;
/** If this many times `maxWaiting` entries wait, further calls are not recorded. */
const mostWaitingCalls = 2;

/**
 * Writes the entries of this process: one chain for each workspace. While one batch is committed, the next batch
 * collects entries, so that many callers share one write to the disk. A batch that fails is repeated until it is
 * written.
 */
export class ChainWriter {
  readonly #options: ChainWriterOptions;
  readonly #chains = new Map<string, Chain>();
  #queue: WaitingEntry[] = [];
  #batch: readonly BuiltEntry[] = [];
  /** The number of entries in the batch, without entries that open a chain. */
  #inBatch = 0;
  #running: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isKeyringChecked = false;
  #closing = false;
  #stopped = false;
  /** The error of the last attempt, and when the first of the failed attempts began. */
  #failure: { readonly error: unknown; readonly sinceMs: number } | undefined;

  constructor(options: ChainWriterOptions) {
    this.#options = options;
  }

  /** The error of the last attempt to write; `undefined` if that attempt succeeded. */
  get failure(): unknown {
    return this.#failure?.error;
  }

  /**
   * Appends an entry to the chain of a workspace. Resolves when the entry is durable.
   *
   * @param withdrawable true to drop the entry when this method rejects, unless the entry already has a place in the
   * chain. If false, the entry is written as soon as the file can be written again.
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the entry cannot be written in time, or too many entries wait.
   */
  write(workspace: string, draft: EntryDraft, withdrawable: boolean): Promise<WrittenEntry> {
    const { path, longestWaitMs, maxWaiting } = this.#options;
    try {
      if (withdrawable) this.requireWritable();
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#closing) return Promise.reject(auditClosed(path));
    // Calls that were in progress when the file failed. Their number has a bound of its own, so that memory has one.
    const most = mostWaitingCalls * maxWaiting;
    if (draft.kind === "call" && this.#queue.length + this.#inBatch >= most) {
      return Promise.reject(tooManyWait(path, most));
    }
    return this.#add(workspace, draft, withdrawable, performance.now() + longestWaitMs);
  }

  /**
   * Checks that an entry would be written in time.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if it would not.
   */
  requireWritable(): void {
    const { path, longestWaitMs, maxWaiting } = this.#options;
    if (this.#closing) throw auditClosed(path);
    if (this.#queue.length + this.#inBatch >= maxWaiting) throw tooManyWait(path, maxWaiting);
    const nowMs = performance.now();
    if (this.#isBlocked(nowMs)) throw cannotWrite(path, this.#failure?.error);
    const oldest = this.#batch.find(({ waiting }) => waiting !== undefined)?.waiting ?? this.#queue[0];
    if (oldest !== undefined && oldest.deadlineMs <= nowMs) throw notWrittenInTime(path, longestWaitMs);
  }

  /**
   * Writes the closing entry of each chain. Afterwards no entry can be written.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the closing entries cannot be written in time. The chains then have no
   * closing entry.
   */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    const { path, longestWaitMs } = this.#options;
    const deadlineMs = performance.now() + longestWaitMs;
    await this.#drainUntil(deadlineMs);
    const closed = [...this.#chains.keys()].map((workspace) =>
      this.#add(workspace, { kind: "chain-closed", at: Date.now() }, false, deadlineMs),
    );
    // Without this, a rejection while the queue drains would count as unhandled.
    const outcomes = Promise.allSettled(closed);
    await this.#drainUntil(deadlineMs);
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#refuse(() => true);
    const failed = (await outcomes).find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw cannotWrite(path, failed.reason);
  }

  #add(workspace: string, draft: EntryDraft, withdrawable: boolean, deadlineMs: number): Promise<WrittenEntry> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ workspace, draft, withdrawable, deadlineMs, settled: false, resolve, reject });
      this.#watch();
      this.#running ??= this.#run();
    });
  }

  #isBlocked(nowMs: number): boolean {
    const failure = this.#failure;
    if (failure === undefined) return false;
    return isLasting(failure.error) || nowMs - failure.sinceMs >= this.#options.longestWaitMs;
  }

  async #run(): Promise<void> {
    for (let attempt = 0; (this.#queue.length > 0 || this.#batch.length > 0) && !this.#stopped; ) {
      if (this.#batch.length === 0) this.#batch = this.#build();
      const startedMs = performance.now();
      try {
        await this.#store(this.#batch);
        attempt = 0;
        this.#failure = undefined;
        this.#acknowledge();
        // Each batch wakes the thread, which costs more than its entries. So those that end in this turn share the next one.
        if (this.#queue.length < mostInBatch) await nextTurn();
      } catch (error) {
        this.#failure = { error, sinceMs: this.#failure?.sinceMs ?? startedMs };
        if (isLasting(error)) this.#refuse(() => true);
        // The process may end if no caller waits any more.
        const ref = this.#waiting().some(({ settled }) => !settled);
        await sleep(Math.min(longestPauseMs, 10 * 2 ** attempt++), undefined, { ref });
      }
    }
    // In the same turn as the last test of the queue. Otherwise an entry that is added in between would wait forever.
    this.#running = undefined;
  }

  #acknowledge(): void {
    const written = this.#batch;
    this.#batch = [];
    this.#inBatch = 0;
    for (const { entry, waiting } of written) {
      if (waiting === undefined || waiting.settled) continue;
      waiting.settled = true;
      waiting.resolve({ chain: entry.chain, sequence: entry.sequence });
    }
  }

  /** Takes waiting entries from the queue, and gives each of them its place in a chain. */
  #build(): BuiltEntry[] {
    const taken = this.#queue.splice(0, mostInBatch);
    this.#inBatch = taken.length;
    const built: BuiltEntry[] = [];
    for (const waiting of taken) {
      const { workspace, draft } = waiting;
      let chain = this.#chains.get(workspace);
      if (chain === undefined) {
        chain = { workspace, id: newId(), number: undefined, sequence: 0, hash: firstHash };
        this.#chains.set(workspace, chain);
        const process_ = { pid: process.pid, host: hostname().slice(0, 256) };
        built.push(link(workspace, chain, { kind: "chain-opened", at: draft.at, process: process_ }, undefined));
      }
      built.push(link(workspace, chain, draft, waiting));
    }
    return built;
  }

  async #store(batch: readonly BuiltEntry[]): Promise<void> {
    const { names } = this.#options;
    // Names may have been removed, or the file replaced, since this process last wrote them.
    if (await this.#tryToStore(batch)) return;
    names.forget();
    if (await this.#tryToStore(batch)) return;
    throw new KeywardError(
      "STORE_UNAVAILABLE",
      "Another process changed the names or the chains of the audit file during a write",
      {
        hint:
          "Wait: this process writes the entries again. If this error returns, find out which program writes to the audit file, and run " +
          "`keyward audit verify`.",
      },
    );
  }

  async #tryToStore(batch: readonly BuiltEntry[]): Promise<boolean> {
    const { table, encrypted, names } = this.#options;
    // Says that the keyring is another one, before the first record fails to be decrypted.
    if (!this.#isKeyringChecked) await encrypted.ready();
    this.#isKeyringChecked = true;
    const lacking = new Map<string, DictionaryName>();
    const rows = new Map<string, Omit<NewEntryRow, "entry">>();
    const heads = new Map<string, DictionaryName>();
    const { numbers, registered } = await this.#numbersOf(batch);
    const lookups = new Map<string, Uint8Array>();
    for (const { entry } of batch) {
      const { workspace } = entry;
      if (!lookups.has(workspace)) lookups.set(workspace, await names.lookupOf(workspace));
    }
    const tagged: { readonly built: BuiltEntry; readonly tags: EntryTags }[] = [];
    for (const built of batch) {
      const { entry, hash } = built;
      const { workspace, chain, sequence } = entry;
      const lookup = lookups.get(workspace);
      if (lookup === undefined) throw new RangeError("The key of the names of a workspace was not read");
      const tags = names.tagsOf({ workspace, lookup }, namesOf(entry), lacking);
      tagged.push({ built, tags });
      rows.set(keyOf(entry), { ...columnsOf(entry), ...tags, workspace, chain, sequence, hash });
      const head = headKeyOf({ workspace, id: chain });
      const number = numbers.get(head) ?? 0;
      heads.set(head, { key: head, value: formatHead({ sequence, hash, number }) });
    }
    const records = [
      ...lacking.values(),
      ...heads.values(),
      ...(registered === undefined ? [] : [{ key: registryKey, value: String(registered) }]),
      ...batch.map(({ entry, text }) => ({ key: keyOf(entry), value: text })),
    ];
    const keys = records.map(({ key }) => key);
    const planned = { kind: "append", entries: rows, numbers } as const;
    const written = await table.whilePlanned(keys, planned, () => encrypted.setMany(records));
    if (!written.every(Boolean)) return false;
    for (const chain of this.#chains.values()) chain.number ??= numbers.get(headKeyOf(chain));
    if (lacking.size > 0) {
      for (const { built, tags } of tagged) names.remember(built.entry.workspace, namesOf(built.entry), tags);
    }
    return true;
  }

  /**
   * Returns the numbers of the chains of a batch by the keys of their heads, and the new number of chains if the batch
   * begins chains.
   */
  async #numbersOf(
    batch: readonly BuiltEntry[],
  ): Promise<{ readonly numbers: ReadonlyMap<string, number>; readonly registered: number | undefined }> {
    const { encrypted } = this.#options;
    const numbers = new Map<string, number>();
    let registered: number | undefined;
    for (const workspace of new Set(batch.map(({ entry }) => entry.workspace))) {
      const chain = this.#chains.get(workspace);
      if (chain === undefined) continue;
      const key = headKeyOf(chain);
      // An earlier attempt may have been committed although its answer did not arrive.
      let number = chain.number ?? parseHead(await encrypted.get(key))?.number;
      if (number === undefined) {
        registered ??= parseRegistry(await encrypted.get(registryKey));
        if (registered === undefined) throw invalidRegistry();
        number = ++registered;
      }
      numbers.set(key, number);
    }
    return { numbers, registered };
  }

  /** Sets the timer that refuses entries that wait too long. */
  #watch(): void {
    if (this.#timer !== undefined) return;
    const oldest = this.#waiting().find(({ settled, deadlineMs }) => !settled && Number.isFinite(deadlineMs));
    if (oldest === undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        const nowMs = performance.now();
        this.#refuse(({ deadlineMs }) => deadlineMs <= nowMs);
        this.#watch();
      },
      Math.max(1, oldest.deadlineMs - performance.now()),
    ).unref();
  }

  #waiting(): WaitingEntry[] {
    return [...this.#batch.flatMap(({ waiting }) => (waiting === undefined ? [] : [waiting])), ...this.#queue];
  }

  /**
   * Rejects the waiting entries that `isRefused` selects. Drops the withdrawable ones that have no place in a chain
   * yet.
   */
  #refuse(isRefused: (waiting: WaitingEntry) => boolean): void {
    const refused = new Set(this.#waiting().filter((waiting) => !waiting.settled && isRefused(waiting)));
    if (refused.size === 0) return;
    const { path, longestWaitMs } = this.#options;
    const failure = this.#failure;
    const error = failure === undefined ? notWrittenInTime(path, longestWaitMs) : cannotWrite(path, failure.error);
    this.#queue = this.#queue.filter((waiting) => !(refused.has(waiting) && waiting.withdrawable));
    for (const { entry, waiting } of this.#batch) {
      if (entry.kind !== "change" || waiting === undefined || !refused.has(waiting)) continue;
      // The entry will be written, but its change is not made.
      const draft = { kind: "outcome", at: Date.now(), change: entry.sequence, outcome: "refused" } as const;
      this.#add(entry.workspace, draft, false, Number.POSITIVE_INFINITY).catch(() => undefined);
    }
    for (const waiting of refused) {
      waiting.settled = true;
      waiting.reject(error);
    }
  }

  /** Waits until no entry waits, or the file has failed for so long that waiting does not help. */
  async #drainUntil(deadlineMs: number): Promise<void> {
    for (;;) {
      const nowMs = performance.now();
      if (this.#running === undefined || nowMs >= deadlineMs || this.#isBlocked(nowMs)) return;
      await Promise.race([this.#running, sleep(Math.min(100, deadlineMs - nowMs), undefined, { ref: false })]);
    }
  }
}

function link(workspace: string, chain: Chain, draft: EntryDraft, waiting: WaitingEntry | undefined): BuiltEntry {
  chain.sequence++;
  const entry: AuditEntry = { ...draft, workspace, chain: chain.id, sequence: chain.sequence, nonce: newNonce() };
  const text = JSON.stringify(entry);
  chain.hash = hashAfter(chain.hash, text);
  return { entry, text, hash: chain.hash, waiting };
}

function headKeyOf({ workspace, id }: Pick<Chain, "workspace" | "id">): string {
  return formatRecordKey({ kind: "head", workspace, chain: id });
}

function keyOf({ workspace, chain, sequence }: AuditEntry): string {
  return formatRecordKey({ kind: "entry", workspace, chain, sequence });
}

/** Returns whether an error occurs until an operator repairs the file or the keys, so that waiting does not help. */
function isLasting(error: unknown): boolean {
  return !(error instanceof KeywardError && ["STORE_UNAVAILABLE", "PROVIDER_UNAVAILABLE"].includes(error.code));
}
