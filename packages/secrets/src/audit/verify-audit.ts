import { type EncryptedStore, KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";
import { parseClock } from "./audit-clock.ts";
import { parseJson } from "./audit-entry.ts";
import { type NameKind, readLookup, tagOf } from "./audit-names.ts";
import type { StoredChainRow, StoredEntryRow } from "./audit-rows.ts";
import type { AuditTable } from "./audit-table.ts";
import type { AuditThread } from "./audit-thread.ts";
import { type AnchoredHead, parseHead, parseRegistry, parseRemovedPart, requireAnchor } from "./chain-proof.ts";
import { ChainWalk } from "./chain-walk.ts";
import { type AuditFile, whileAuditIsOpen } from "./open-audit-file.ts";
import { type AuditRecordKey, clockKey, formatRecordKey, parseRecordKey, registryKey } from "./record-key.ts";

/** A problem at one place of an audit file. */
export interface AuditProblem {
  /** The id of the workspace; `undefined` if the problem concerns the whole file. */
  readonly workspace: string | undefined;
  /** The id of the chain; `undefined` if the problem concerns no chain. */
  readonly chain: string | undefined;
  /** The sequence number of the entry in its chain; `undefined` if the problem concerns no entry. */
  readonly sequence: number | undefined;
  /** What is wrong, as a sentence without names. */
  readonly problem: string;
}

/** A chain without a closing entry: its process is running, or was killed. */
export interface OpenChain {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The id of the chain. */
  readonly chain: string;
  /** The sequence number of its last entry. */
  readonly last: number;
  /** Explains why a chain may have no closing entry. */
  readonly note: "has no closing entry: its process still runs, or was killed, and then up to one batch may be missing";
}

/** The result of {@link verifyAudit}. */
export interface AuditVerification {
  /** True if no problem was found. A chain without a closing entry is not a problem. */
  readonly ok: boolean;
  /** The number of entries that were checked. */
  readonly entries: number;
  /** The number of chains that were checked. */
  readonly chains: number;
  /** The problems, at most 1,000. */
  readonly problems: readonly AuditProblem[];
  /** The number of all problems. */
  readonly problemCount: number;
  /** Chains without a closing entry, at most 1,000. */
  readonly openChains: readonly OpenChain[];
}

/** The options of {@link verifyAudit}. */
export interface VerifyAuditOptions extends AuditFile {
  /**
   * The parsed JSON of all anchors that {@link auditAnchor} returned. Default: none, so the file is not compared with
   * earlier states.
   */
  readonly anchors?: readonly unknown[] | undefined;
  /** Stops the verification, which then rejects with the reason of the signal. */
  readonly signal?: AbortSignal | undefined;
}

const mostListed = 1_000;
const pageSize = 500;
/** How often the walk along a chain begins again because retention removed entries meanwhile. */
const mostAttempts = 5;
const unclosed = "has no closing entry: its process still runs, or was killed, and then up to one batch may be missing";

/**
 * Verifies an audit file. Checks that the chains have no gap, that their hashes are right, that the columns equal the
 * encrypted entries, and that all names can be read. Finds edits, removed or added entries and chains, and entries of a
 * chain in another order.
 *
 * A file that was put back to an older state is found only with anchors that were kept elsewhere. Processes may write
 * the file during the verification.
 *
 * @throws SecretsError `AUDIT_INVALID` for an anchor of another form; KeywardError `STORE_UNAVAILABLE` or
 * `STORE_INVALID` if the file cannot be opened, and the errors of the keys.
 * @example
 * await openAuditLog({ path: "audit.db", keys }).ready();
 * const { ok, problems } = await verifyAudit({ path: "audit.db", keys });
 * console.log(ok, problems); // true []
 */
export async function verifyAudit({ anchors = [], signal, ...file }: VerifyAuditOptions): Promise<AuditVerification> {
  const heads = anchors.flatMap((anchor) => requireAnchor(anchor).heads);
  return await whileAuditIsOpen(file, async ({ thread, table, encrypted }) => {
    await encrypted.ready();
    return await new Verification(thread, table, encrypted, heads, signal).run();
  });
}

interface AnchoredChain {
  readonly workspace: string;
  readonly hashes: Map<number, Set<string>>;
}

class Verification {
  readonly #thread: AuditThread;
  readonly #table: AuditTable;
  readonly #encrypted: EncryptedStore;
  readonly #anchored = new Map<string, AnchoredChain>();
  readonly #signal: AbortSignal | undefined;
  readonly #problems: AuditProblem[] = [];
  readonly #openChains: OpenChain[] = [];
  readonly #lookups = new Map<string, Uint8Array | undefined>();
  #problemCount = 0;
  #entries = 0;
  #chains = 0;
  #hasRemoved = false;

  constructor(
    thread: AuditThread,
    table: AuditTable,
    encrypted: EncryptedStore,
    anchored: readonly AnchoredHead[],
    signal: AbortSignal | undefined,
  ) {
    this.#thread = thread;
    this.#table = table;
    this.#encrypted = encrypted;
    for (const { workspace, chain, sequence, hash } of anchored) {
      const known = this.#anchored.get(chain) ?? { workspace, hashes: new Map<number, Set<string>>() };
      known.hashes.set(sequence, (known.hashes.get(sequence) ?? new Set()).add(hash));
      this.#anchored.set(chain, known);
    }
    this.#signal = signal;
  }

  async run(): Promise<AuditVerification> {
    for (const problem of await this.#thread.request<string[]>({ method: "integrity" })) this.#note({}, problem);
    await this.#verifyChains();
    await this.#verifyNames();
    const [clock] = await this.#encrypted.getManyOrErrors([clockKey]);
    if (clock === undefined && this.#hasRemoved) this.#note({}, "the record of the clock of retention is missing");
    if (clock !== undefined && parseClock(clock) === undefined) {
      this.#note({}, "the record of the clock of retention cannot be read");
    }
    for (const [chain, { workspace }] of this.#anchored) {
      this.#note({ workspace, chain }, "the anchor has this chain, but the file does not have it");
    }
    return {
      ok: this.#problemCount === 0,
      entries: this.#entries,
      chains: this.#chains,
      problems: this.#problems,
      problemCount: this.#problemCount,
      openChains: this.#openChains,
    };
  }

  /** Verifies each chain, and that the file has as many chains as its registry. */
  async #verifyChains(): Promise<void> {
    const before = await this.#registered();
    let last = 0;
    for (;;) {
      const rows = await this.#thread.request<StoredChainRow[]>({ method: "chains", after: last, limit: pageSize });
      if (rows.length === 0) break;
      for (const row of rows) {
        if (row.id !== last + 1) this.#note({}, `the chains ${last + 1} to ${row.id - 1} were removed from the file`);
        last = row.id;
        this.#hasRemoved ||= row.hasRemoved;
        await this.#verifyChain(row);
      }
    }
    const after = await this.#registered();
    // Processes may have begun chains in the meantime.
    if (before === undefined || after === undefined) this.#note({}, "the record that counts the chains cannot be read");
    else if (last < before) this.#note({}, `the chains ${last + 1} to ${before} were removed from the file`);
    else if (last > after) this.#note({}, "the file has more chains than its record of their number");
    else if (last === 0 && (await this.#wasUsed())) {
      this.#note(
        {},
        "the file was used, and has no chain: all chains were removed, or the process that wrote the first entry was killed",
      );
    }
  }

  /** Returns whether a process has written to the file. Its own heartbeat does not count. */
  async #wasUsed(): Promise<boolean> {
    const { entries } = await this.#table.reserved().scan({ limit: pageSize });
    return entries.some(({ key }) => !key.startsWith("replica/"));
  }

  async #registered(): Promise<number | undefined> {
    return parseRegistry((await this.#encrypted.getManyOrErrors([registryKey]))[0]);
  }

  async #verifyChain({ id }: StoredChainRow): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const row = await this.#chainAt(id);
      if (row === undefined) return this.#note({}, "a chain was removed from the file during the verification");
      const walk = await this.#walk(row);
      // Retention may have removed entries during the walk.
      if ((await this.#chainAt(id))?.first !== row.first && attempt < mostAttempts) continue;
      this.#anchored.delete(row.chain);
      this.#chains++;
      if (walk === undefined) return this.#note({ chain: row.chain }, "the chain belongs to no workspace of the file");
      this.#add(walk);
      return;
    }
  }

  async #walk(row: StoredChainRow): Promise<ChainWalk | undefined> {
    const { workspace, chain } = row;
    if (workspace === undefined) return undefined;
    const walk = new ChainWalk(workspace, chain, this.#anchored.get(chain)?.hashes);
    walk.begin(parseRemovedPart(row.hasRemoved ? await this.#read({ kind: "removed", workspace, chain }) : ""), row);
    await this.#walkToEnd(row.id, walk);
    for (;;) {
      // The head is read after the entries, so it is never behind them unless it was put back.
      const head = parseHead(await this.#read({ kind: "head", workspace, chain }));
      const before = walk.last.sequence;
      if (!walk.endsAt(head)) {
        await this.#walkToEnd(row.id, walk);
        if (walk.last.sequence > before) continue;
        walk.reportEnd(head);
      } else if (head?.number !== row.id) this.#note({ workspace, chain }, "the chain has the number of another chain");
      walk.finish();
      return walk;
    }
  }

  async #chainAt(id: number): Promise<StoredChainRow | undefined> {
    const rows = await this.#thread.request<StoredChainRow[]>({ method: "chains", after: id - 1, limit: 1 });
    return rows[0]?.id === id ? rows[0] : undefined;
  }

  #add(walk: ChainWalk): void {
    const { workspace, chain } = walk;
    this.#entries += walk.entries;
    for (const { sequence, problem } of walk.problems) this.#note({ workspace, chain, sequence }, problem);
    this.#problemCount += walk.problemCount - walk.problems.length;
    if (walk.isOpen && this.#openChains.length < mostListed) {
      this.#openChains.push({ workspace, chain, last: walk.last.sequence, note: unclosed });
    }
  }

  async #walkToEnd(chainRow: number, walk: ChainWalk): Promise<void> {
    const { workspace, chain } = walk;
    for (;;) {
      this.#signal?.throwIfAborted();
      const after = walk.last.sequence;
      const rows = await this.#thread.request<StoredEntryRow[]>({
        method: "chainEntries",
        chain: chainRow,
        after,
        limit: pageSize,
      });
      const keys = rows.map(({ sequence }) => formatRecordKey({ kind: "entry", workspace, chain, sequence }));
      const texts = rows.length === 0 ? [] : await this.#encrypted.getManyOrErrors(keys);
      const lookup = await this.#lookupOf(workspace);
      for (const [index, row] of rows.entries()) walk.step(row, texts[index], lookup);
      if (rows.length < pageSize) return;
    }
  }

  /** Checks that each name can be decrypted and has the right tag. */
  async #verifyNames(): Promise<void> {
    let cursor: string | undefined;
    do {
      this.#signal?.throwIfAborted();
      const page = await this.#table.scan({ limit: pageSize, ...(cursor === undefined ? {} : { cursor }) });
      const keys = page.entries.map(({ key }) => key).filter((key) => parseRecordKey(key)?.kind === "name");
      const texts = keys.length === 0 ? [] : await this.#encrypted.getManyOrErrors(keys);
      for (const [index, key] of keys.entries()) {
        const parsed = parseRecordKey(key);
        if (parsed?.kind !== "name") continue;
        const name = readName(texts[index]);
        const lookup = await this.#lookupOf(parsed.workspace);
        // Retention may have removed the name since the page was read.
        if (texts[index] === undefined) continue;
        if (name === undefined || lookup === undefined || tagOf(lookup, name.kind, name.name) !== parsed.tag) {
          this.#note({ workspace: parsed.workspace }, "a name in the dictionary cannot be read, or was changed");
        }
      }
      // The names come before the entries in a scan.
      const isPastNames = page.entries.some(({ key }) => parseRecordKey(key)?.kind === "entry");
      cursor = isPastNames ? undefined : page.cursor;
    } while (cursor !== undefined);
  }

  async #lookupOf(workspace: string): Promise<Uint8Array | undefined> {
    if (this.#lookups.has(workspace)) return this.#lookups.get(workspace);
    let lookup: Uint8Array | undefined;
    try {
      lookup = await readLookup(this.#encrypted, workspace);
      if (lookup === undefined) this.#note({ workspace }, "the key of the names of the workspace is missing");
    } catch (error) {
      if (!(error instanceof KeywardError || error instanceof SecretsError)) throw error;
      if (error.code === "STORE_UNAVAILABLE") throw error;
      this.#note({ workspace }, `the key of the names of the workspace cannot be read: ${error.message}`);
    }
    this.#lookups.set(workspace, lookup);
    return lookup;
  }

  async #read(key: AuditRecordKey): Promise<unknown> {
    return (await this.#encrypted.getManyOrErrors([formatRecordKey(key)]))[0];
  }

  #note(where: { workspace?: string; chain?: string; sequence?: number | undefined }, problem: string): void {
    this.#problemCount++;
    if (this.#problems.length >= mostListed) return;
    const { workspace, chain, sequence } = where;
    this.#problems.push({ workspace, chain, sequence, problem });
  }
}

function readName(text: unknown): { readonly kind: NameKind; readonly name: string } | undefined {
  const parsed = typeof text === "string" ? parseJson(text) : undefined;
  if (typeof parsed !== "object" || parsed === null || !("kind" in parsed) || !("name" in parsed)) return undefined;
  const { kind, name } = parsed;
  const isKind = kind === "server" || kind === "token" || kind === "owner" || kind === "action";
  return isKind && typeof name === "string" ? { kind, name } : undefined;
}
