import { setTimeout as pause } from "node:timers/promises";
import {
  type CensusCounts,
  census,
  type KeyProvider,
  type Keyring,
  KeywardError,
  type KeywardErrorCode,
  reencrypt,
  replicas,
  retireKey,
} from "@keyward/core";
import type { OpenStores } from "../configuration/sources.ts";
import type { Context } from "../context.ts";
import { ProblemsPrinted } from "../exit-codes.ts";
import { type CensusResult, censusResult } from "../results/census-result.ts";
import { keyringResult } from "../results/keyring-result.ts";
import {
  groupsOf,
  type ReencryptionResult,
  reencryptionResult,
  type UnreadableGroup,
} from "../results/reencryption-result.ts";
import { type ReplicaResult, replicaResult } from "../results/replica-result.ts";
import { shownDuration, shownSince } from "../terminal/durations.ts";
import { shownName, table } from "../terminal/output.ts";
import { adviceFor, adviceForForbiddenPlaintext } from "../terminal/record-advice.ts";
import { whyReadOnly } from "./changed-keyring.ts";
import { addByCode, formatNames, type JobCommandOptions, jobSettings } from "./reencryption-jobs.ts";
import { printInstruction } from "./rotate.ts";

const barWidth = 20;

/** The options of `keyward census`. */
export interface CensusCommandOptions {
  readonly by: "store" | "namespace";
  readonly watch: boolean;
  /** The pause between two counts, in milliseconds. */
  readonly every: number;
}

/**
 * Counts the records under each key, by store or by namespace. With `--watch`, counts until the operator stops it or the
 * output is closed.
 */
export async function showCensus(context: Context, { by, watch, every }: CensusCommandOptions): Promise<void> {
  await context.withStores(async (provider, stores) => {
    const { signal, output } = context;
    if (!watch) {
      const { text, counted } = await countRecords(provider, stores, { by, signal });
      output.result(text, counted);
      return;
    }
    while (!output.isClosed) {
      const { text, counted } = await countRecords(provider, stores, { by, signal });
      output.redraw(`${new Date().toISOString()}, every ${shownDuration(every)}\n${text}`, counted);
      await pause(every, undefined, { signal });
    }
  });
}

/** The census of each store, by its name, as `--json` prints it. */
interface CountedStores {
  readonly stores: Readonly<Record<string, CensusResult>>;
}

async function countRecords(
  provider: KeyProvider,
  stores: OpenStores["stores"],
  { by, signal }: { readonly by: CensusCommandOptions["by"]; readonly signal: AbortSignal },
): Promise<{ readonly text: string; readonly counted: CountedStores }> {
  const keyring = await provider.load({ signal });
  const rows: string[][] = [];
  const counted: Record<string, CensusResult> = {};
  for (const [name, store] of Object.entries(stores)) {
    const found = await census(store, { signal });
    counted[name] = censusResult(found);
    if (by === "store") rows.push(...censusRows(name, found, keyring));
    else {
      for (const [namespace, counts] of found.namespaces) {
        rows.push(...censusRows(`${name} ${namespace === "" ? "(no namespace)" : namespace}`, counts, keyring));
      }
    }
    if (found.records === 0) rows.push([name, "no records", "", "0"]);
  }
  return { text: table([[by, "records", "status", "count", ""], ...rows]), counted: { stores: counted } };
}

function censusRows(place: string, counts: CensusCounts, keyring: Keyring): string[][] {
  const { keys, unsealed, broken, records } = counts;
  const kinds: (readonly [what: string, status: string, count: number])[] = [...keys].map(([id, count]) => [
    `key ${id}`,
    statusOf(id, keyring),
    count,
  ]);
  if (unsealed > 0) kinds.push(["not encrypted", "", unsealed]);
  if (broken > 0) kinds.push(["broken", "", broken]);
  return kinds.map(([what, status, count]) => {
    const bar = "█".repeat(Math.round((barWidth * count) / Math.max(1, records)));
    return [place, what, status, String(count), bar];
  });
}

function statusOf(id: string, { primary, keys }: Keyring): string {
  if (id === primary) return "primary";
  return keys.find((key) => key.id === id)?.status ?? "NOT IN THE KEYRING";
}

/** The options of `keyward reencrypt`. */
export interface ReencryptStoresOptions extends JobCommandOptions {
  readonly dryRun?: boolean;
}

/** Re-encrypts every record of every store. */
export async function reencryptStores(context: Context, options: ReencryptStoresOptions): Promise<void> {
  const accept = (await context.told()).config?.settings.accept ?? [];
  await context.withStores(async (keys, stores, _listed, inner) => {
    const { signal, output } = context;
    const { dryRun = false } = options;
    const { encryptedNamespaces } = await keys.load({ signal });
    const settings = await jobSettings(context, { stores, inner }, options, formatNames(accept));
    const records = await context.recordProgress(stores);
    const reports: Record<string, ReencryptionResult> = {};
    const lines: string[] = [];
    const codes = new Map<KeywardErrorCode, number>();
    let forbidden = 0;
    let ungrouped = 0;
    for (const [name, store] of Object.entries(stores)) {
      const report = await reencrypt(store, {
        ...settings,
        dryRun,
        onProgress: (progress) => records.show(name, progress),
      });
      records.end();
      signal.throwIfAborted();
      const shown = reencryptionResult(report);
      reports[name] = shown;
      const isForbidden = ({ namespace, code }: UnreadableGroup) =>
        code === "RECORD_NOT_SEALED" && encryptedNamespaces.includes(namespace);
      addByCode(
        codes,
        shown.unreadableGroups.filter((group) => !isForbidden(group)),
      );
      for (const group of shown.unreadableGroups) if (isForbidden(group)) forbidden += group.records;
      const verb = dryRun ? "would be re-encrypted" : "re-encrypted";
      lines.push(
        `${name}: ${report.reencrypted} of ${report.scanned} records ${verb}, ${report.unreadable} unreadable`,
      );
      for (const { namespace, code, keyId, records } of shown.unreadableGroups) {
        const key = keyId === null ? "" : ` under key ${keyId}`;
        const where = namespace === "" ? "without a namespace" : `in ${shownName(namespace)}`;
        lines.push(`  ${records} ${where}${key}: ${code}`);
      }
      // A run that resumed lists only its own records, and the report lists at most 1,000 of them.
      const others = report.unreadable - report.unreadableRecords.length;
      if (others > 0)
        lines.push(`  ${others} not listed: of an earlier run, or after the first ${report.unreadableRecords.length}`);
      ungrouped += Math.max(0, others);
      if (report.unauthenticated > 0) {
        lines.push(
          `  ${report.unauthenticated} unchanged, in a format that cannot detect a wrong key: \`keyward migrate --encrypt-unauthenticated\``,
        );
      }
    }
    output.result(lines.join("\n"), { dryRun, stores: reports });
    if (Object.values(reports).every(({ complete }) => complete)) return;
    const advice = [
      ...(codes.size === 0 ? [] : [adviceFor(codes)]),
      ...(forbidden === 0 ? [] : [adviceForForbiddenPlaintext(forbidden)]),
      ...(ungrouped === 0 ? [] : [`  ${ungrouped} others: \`keyward reencrypt --dry-run\` reads all records again.`]),
    ];
    if (advice.length > 0) {
      output.problem(
        new KeywardError("RECORDS_UNREADABLE", "Some records cannot be decrypted, and are unchanged", {
          hint: advice.join("\n"),
        }),
      );
    }
    throw new ProblemsPrinted();
  });
}

/** The options of `keyward retire`. */
export interface RetireCommandOptions {
  readonly remove?: boolean;
  readonly abandonUnreadable?: boolean;
}

/**
 * Disables or removes a key, after checking that no record needs it. The operator confirms a removal first, because only a
 * backup of the keyring can undo a removal.
 */
export async function retire(context: Context, id: string, options: RetireCommandOptions): Promise<void> {
  const { remove = false, abandonUnreadable = false } = options;
  await context.withStores(async (keys, stores) => {
    const { signal, output } = context;
    if (remove) await confirmRemoval(context, keys, id);
    const { keyring, saved, abandoned } = await retireKey(keys, stores, id, {
      to: remove ? "removed" : "disabled",
      abandonUnreadable,
      signal,
      ...(remove ? { instruct: printInstruction(output) } : {}),
    });
    const done = remove ? "removed" : "disabled";
    const text = saved
      ? `Key "${id}" is ${done}.`
      : `No record needs key "${id}". The source of the keys cannot be saved: \`keyward keyring remove ${id}\` prints how to remove the key.`;
    // Without a change at the source, the keyring of the result is the one that was not saved.
    const present = saved ? keyring : await keys.load({ signal });
    output.result(text, {
      keyId: id,
      changed: saved,
      keyring: keyringResult(present),
      abandonedGroups: groupsOf(abandoned),
    });
  });
}

async function confirmRemoval({ operator, signal }: Context, keys: KeyProvider, id: string): Promise<void> {
  // At a source that cannot be saved, the operator removes the key.
  if ((await whyReadOnly(keys)) !== undefined) return;
  const keyring = await keys.load({ signal });
  // `retireKey` refuses any other key.
  if (!keyring.keys.some((key) => key.id === id && key.status === "disabled")) return;
  await operator.confirm(`Key "${id}" would be removed, and only a backup of the keyring could bring it back.`);
}

/** Lists the processes that are registered in the stores. */
export async function showReplicas(context: Context): Promise<void> {
  await context.withStores(async (_, stores) => {
    const rows: string[][] = [];
    const found: ReplicaResult[] = [];
    for (const [store, given] of Object.entries(stores)) {
      const listed = await replicas(given);
      found.push(...listed.map((replica) => replicaResult(store, replica)));
      for (const { id, name, generation, primary, keys, lastSeenMs, lapsed, problem } of listed) {
        const state = problem ?? (lapsed ? "lapsed" : `seen ${shownSince(lastSeenMs)} ago`);
        rows.push([store, name, id, String(generation), primary, keys?.join(" ") ?? "", state]);
      }
    }
    const header = ["store", "replica", "id", "generation", "primary", "keys", ""];
    context.output.result(rows.length === 0 ? "No process is registered." : table([header, ...rows]), {
      replicas: found,
    });
  });
}
