import type { EncryptedStore } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";
import { AuditClock } from "./audit-clock.ts";
import { tryToParseEntry } from "./audit-entry.ts";
import { readLookup } from "./audit-names.ts";
import type { StoredChainRow, StoredEntryRow } from "./audit-rows.ts";
import type { AuditTable } from "./audit-table.ts";
import type { AuditThread } from "./audit-thread.ts";
import { parseRemovedPart, type RemovedPart, shortestRetentionMs } from "./chain-proof.ts";
import { ChainWalk } from "./chain-walk.ts";
import { formatRecordKey } from "./record-key.ts";

/** One transaction removes at most this many entries, so that writers wait only a few milliseconds. */
const removedAtOnce = 500;
const chainsOnPage = 500;
/** A clock that is further ahead than this is reported. */
const reportedAheadMs = 24 * 3_600_000;

interface OldPart {
  readonly first: number;
  readonly proof: RemovedPart;
}

/**
 * Removes old entries, in small batches from the beginning of each chain. The columns of the file are not trusted,
 * because they are not encrypted. Before entries are removed, they are decrypted and verified. Their age follows from
 * the times in the decrypted entries, and from the {@link AuditClock}.
 */
export class Retention {
  readonly #thread: AuditThread;
  readonly #table: AuditTable;
  readonly #encrypted: EncryptedStore;
  readonly #clock: AuditClock;

  constructor(thread: AuditThread, table: AuditTable, encrypted: EncryptedStore) {
    this.#thread = thread;
    this.#table = table;
    this.#encrypted = encrypted;
    this.#clock = new AuditClock(encrypted);
  }

  /**
   * Removes the entries of a workspace that are older than `time`. Returns the number of removed entries.
   *
   * @throws SecretsError `FIELD_INVALID` for a time that is less than a day ago; `AUDIT_INVALID` if the verification of
   * a chain fails, the clock of the machine is ahead, or the clock of retention was deleted. A chain whose verification
   * fails keeps its entries. The other entries are removed before the error is thrown.
   */
  async removeBefore(workspace: string, time: number): Promise<number> {
    const now = Date.now();
    if (!Number.isSafeInteger(time) || time > now - shortestRetentionMs) {
      throw new SecretsError("FIELD_INVALID", "Entries of the audit are kept for a day at least", {
        hint: "Pass a time that is more than a day ago. Nothing was removed.",
      });
    }
    const refused: SecretsError[] = [];
    const at = await this.#clock.advance(now, async () => {
      const { removedAt, oldest } = await this.#known();
      if (removedAt !== undefined) refused.push(clockMissing());
      return removedAt ?? oldest ?? now;
    });
    const before = time - (now - at);
    let removed = 0;
    for (let after = 0; ; ) {
      const rows = await this.#thread.request<StoredChainRow[]>({
        method: "chainsOf",
        workspace,
        after,
        limit: chainsOnPage,
      });
      for (const { id } of rows) {
        try {
          removed += await this.#removeFrom(workspace, id, before, at);
        } catch (error) {
          if (!(error instanceof SecretsError)) throw error;
          refused.push(error);
        }
      }
      const last = rows.at(-1);
      if (last === undefined) break;
      after = last.id;
    }
    const [problem = now - at > reportedAheadMs ? clockAhead(now - at) : undefined] = refused;
    if (problem !== undefined) throw problem;
    return removed;
  }

  /**
   * Returns the time of the newest removal, and the time of the oldest entry. A clock whose record was deleted begins
   * again at one of these times. If no time of a removal can be read, returns the time of the oldest entry instead.
   */
  async #known(): Promise<{ readonly removedAt: number | undefined; readonly oldest: number | undefined }> {
    let removedAt: number | undefined;
    let oldest: number | undefined;
    for (let after = 0; ; ) {
      const rows = await this.#thread.request<StoredChainRow[]>({ method: "chains", after, limit: chainsOnPage });
      for (const { workspace, chain, first, hasRemoved } of rows) {
        if (workspace === undefined) continue;
        if (hasRemoved) {
          const part = parseRemovedPart(await this.#read(formatRecordKey({ kind: "removed", workspace, chain })));
          removedAt = Math.max(removedAt ?? 0, part?.at ?? 0);
        }
        // Chains are numbered in the order in which they began.
        if (oldest !== undefined) continue;
        const text = await this.#read(formatRecordKey({ kind: "entry", workspace, chain, sequence: first }));
        oldest = typeof text === "string" ? tryToParseEntry(text)?.at : undefined;
      }
      const last = rows.at(-1);
      if (last === undefined) return { removedAt: removedAt === 0 ? oldest : removedAt, oldest };
      after = last.id;
    }
  }

  async #removeFrom(workspace: string, chainRow: number, before: number, at: number): Promise<number> {
    let removed = 0;
    // Most chains are too new, which one entry shows.
    for (let limit = 1; ; limit = removedAtOnce) {
      const row = await this.#chainAt(chainRow);
      const part = row === undefined ? undefined : await this.#oldPart(workspace, row, before, at, limit);
      if (row === undefined || part === undefined) return removed;
      const { chain } = row;
      const key = formatRecordKey({ kind: "removed", workspace, chain });
      const removal = { workspace, chain, first: part.first, last: part.proof.sequence };
      const isRemoved = await this.#table.whilePlanned([key], { kind: "remove", removal }, () =>
        this.#encrypted.set(key, JSON.stringify(part.proof)),
      );
      // If another process has removed entries of the chain in the meantime, the next step sees what is left.
      if (isRemoved) removed += removal.last - removal.first + 1;
    }
  }

  /**
   * Verifies the entries at the beginning of a chain. Returns the part that is older than `before`; `undefined` if
   * there is none.
   */
  async #oldPart(
    workspace: string,
    row: StoredChainRow,
    before: number,
    at: number,
    limit: number,
  ): Promise<OldPart | undefined> {
    const { chain, first } = row;
    const walk = new ChainWalk(workspace, chain);
    const removed = row.hasRemoved
      ? await this.#read(formatRecordKey({ kind: "removed", workspace, chain }))
      : undefined;
    walk.begin(parseRemovedPart(removed), row);
    const after = walk.last.sequence;
    const rows = await this.#thread.request<StoredEntryRow[]>({ method: "chainEntries", chain: row.id, after, limit });
    const keys = rows.map(({ sequence }) => formatRecordKey({ kind: "entry", workspace, chain, sequence }));
    const texts = rows.length === 0 ? [] : await this.#encrypted.getManyOrErrors(keys);
    const lookup = await readLookup(this.#encrypted, workspace);
    let proof: RemovedPart | undefined;
    for (const [index, entryRow] of rows.entries()) {
      const entry = walk.step(entryRow, texts[index], lookup);
      // Only the beginning of a chain is removed, so that the rest can be verified.
      if (entry === undefined || entry.at >= before) break;
      const { sequence, hash } = walk.last;
      const newest = Math.max(entry.at, proof?.newest ?? entry.at);
      proof = { sequence, hash: Buffer.from(hash).toString("hex"), newest, before, at };
    }
    const [problem] = walk.problems;
    if (problem === undefined && lookup !== undefined) return proof === undefined ? undefined : { first, proof };
    // Another process may have removed entries meanwhile.
    const current = await this.#chainAt(row.id);
    if (current !== undefined && current.first !== first)
      return await this.#oldPart(workspace, current, before, at, limit);
    throw new SecretsError(
      "AUDIT_INVALID",
      `Old entries of the chain ${chain} are kept, because their verification failed`,
      {
        hint: "Run `keyward audit verify`, and keep a copy of the file. Find out which program writes to the audit file.",
      },
    );
  }

  async #chainAt(id: number): Promise<StoredChainRow | undefined> {
    const rows = await this.#thread.request<StoredChainRow[]>({ method: "chains", after: id - 1, limit: 1 });
    return rows[0]?.id === id ? rows[0] : undefined;
  }

  async #read(key: string): Promise<unknown> {
    return (await this.#encrypted.getManyOrErrors([key]))[0];
  }
}

function clockMissing(): SecretsError {
  return new SecretsError("AUDIT_INVALID", "The record of the clock of retention is missing in the audit file", {
    hint:
      "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`. The clock begins " +
      "again at the time of the newest removal of entries, so entries are removed later.",
  });
}

function clockAhead(aheadMs: number): SecretsError {
  const days = Math.floor(aheadMs / (24 * 3_600_000));
  return new SecretsError(
    "AUDIT_INVALID",
    `The clock of this machine is ${days} days ahead of the clock of the audit's retention`,
    {
      hint:
        "If the clock of the machine is wrong, set it. If the service was off for this time, do nothing: entries are " +
        "removed later, when the clock of retention has caught up by a day for each hour that the service runs.",
    },
  );
}
