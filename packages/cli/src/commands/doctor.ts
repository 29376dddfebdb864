import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type EncryptedStore,
  hasReservedSpace,
  isAtomic,
  isScannable,
  type KeyProvider,
  KeywardError,
  type KeywardErrorCode,
  type Replica,
  replicas,
  rotationStatus,
  type WrappableStore,
} from "@keyward/core";
import { checkRecordKey } from "../configuration/scope-use.ts";
import type { Context } from "../context.ts";
import { ProblemsPrinted } from "../exit-codes.ts";
import { inCommandTerms } from "../terminal/command-terms.ts";
import { shownSince } from "../terminal/durations.ts";
import { rotationName } from "./rotate.ts";

/** The result of one check: its subject, and whether it found a problem. */
interface Finding {
  readonly level: "good" | "warning" | "problem";
  readonly of: Subject;
  readonly text: string;
  /** An instruction for the operator. Absent if the level is good. */
  readonly hint?: string;
  /** The code of the error with which the check failed. Absent if there was no error. */
  readonly code?: KeywardErrorCode;
}

/** The subject of a check: the configuration, the keys, or one store. */
interface Subject {
  readonly subject: "configuration" | "keys" | "store";
  /** The name of the store; `null` if the subject is not a store. */
  readonly store: string | null;
}

const ofConfiguration: Subject = { subject: "configuration", store: null };
const ofKeys: Subject = { subject: "keys", store: null };

function ofStore(store: string): Subject {
  return { subject: "store", store };
}

const marks = { good: "ok", warning: "warning", problem: "PROBLEM" } as const;

const colors = { good: "green", warning: "yellow", problem: "red" } as const;
// Clocks that are synchronized differ less, and a heartbeat needs some time.
const toleratedClockMs = 5_000;
// By default, a process writes a heartbeat every three seconds or so.
const heartbeatWaitMs = 5_000;

/**
 * Checks the keys, and each store with the keys, and prints a line for each check. Changes nothing.
 *
 * @throws ProblemsPrinted if a check found a problem, after all checks were printed.
 */
export async function doctor(context: Context): Promise<void> {
  const notOpened: Finding[] = [];
  const check = async (
    keys: KeyProvider,
    stores: Readonly<Record<string, EncryptedStore>>,
    listed: readonly string[],
    inner: Readonly<Record<string, WrappableStore>>,
  ): Promise<void> => {
    const { config, path } = await context.told();
    const findings: Finding[] = config === undefined ? [] : [{ level: "good", of: ofConfiguration, text: path }];
    findings.push(...(await checkKeys(keys, context.signal)), ...notOpened);
    findings.push(...checkNames(listed, [...Object.keys(stores), ...notOpened.flatMap(({ of }) => of.store ?? [])]));
    // The record of a rotation may be in a store that is missing here.
    if (findings.every(({ level }) => level !== "problem")) findings.push(...(await checkRotation(keys, stores)));
    for (const [name, store] of Object.entries(stores)) {
      context.signal.throwIfAborted();
      const of = ofStore(name);
      const scope = await context.scope(name);
      const checkInner = () => checkUse(of, inner[name], typeof scope === "string" ? scope : undefined);
      const isAudit = config?.settings.gateway !== undefined && name === "audit";
      // Only the audit log may write to the audit.
      findings.push(...(await checkStore(of, store, keys, { checkInner, takesWrites: !isAudit })));
      findings.push(...(await checkEviction(of, inner[name], config?.settings.gateway !== undefined)));
      findings.push(...checkCapabilities(of, inner[name]), ...checkConnection(of, await context.sourceOf(name)));
    }
    const shownFindings = findings.map((finding) =>
      finding.hint === undefined ? finding : { ...finding, hint: context.output.hint(finding.hint) },
    );
    const lines = shownFindings.map(({ level, of, text, hint, code }) => {
      const shown = code === undefined ? text : `${text} (${code})`;
      const line = `${context.output.styled(colors[level], marks[level].padEnd(7))}  ${of.store ?? of.subject}: ${shown}`;
      return hint === undefined ? line : `${line}\n         ${hint}`;
    });
    const problems = findings.filter(({ level }) => level === "problem").length;
    const warnings = findings.filter(({ level }) => level === "warning").length;
    context.output.result(lines.join("\n"), { problems, warnings, findings: shownFindings.map(findingResult) });
    if (problems > 0) throw new ProblemsPrinted();
  };
  await context.withStores(check, (name, error) => notOpened.push(problemOf(ofStore(name), error)));
}

/** A check as `--json` prints it. */
interface FindingResult extends Subject {
  readonly level: Finding["level"];
  readonly message: string;
  readonly hint: string | null;
  readonly code: KeywardErrorCode | null;
}

function findingResult({ level, of, text, hint, code }: Finding): FindingResult {
  return { level, ...of, message: text, hint: hint ?? null, code: code ?? null };
}

async function checkKeys(provider: KeyProvider, signal: AbortSignal): Promise<readonly Finding[]> {
  const of = ofKeys;
  try {
    const { primary, keys, generation } = await provider.load({ signal });
    const text = `generation ${generation}, primary ${primary}, ${keys.length === 1 ? "1 key" : `${keys.length} keys`}`;
    return [{ level: "good", of, text }, await checkSaving(provider)];
  } catch (error) {
    return [problemOf(of, error)];
  }
}

function checkNames(listed: readonly string[], names: readonly string[]): readonly Finding[] {
  const missing = listed.filter((name) => !names.includes(name));
  const unlisted = listed.length === 0 ? [] : names.filter((name) => !listed.includes(name));
  const hint = "Name every store that uses the keys, under the name that the keyring lists: `--store name=source`.";
  return [
    ...missing.map((name) => ({
      level: "problem" as const,
      of: ofStore(name),
      text: "the keyring lists this store, but no flag, environment variable or configuration names it",
      hint,
    })),
    ...unlisted.map((name) => ({
      level: "problem" as const,
      of: ofStore(name),
      text: "the keyring does not list this store",
      hint: `If the store uses these keys, let the keyring list it: \`keyward keyring stores ${[...listed, name].join(" ")}\`. Otherwise correct its name.`,
    })),
  ];
}

async function checkRotation(
  provider: KeyProvider,
  stores: Readonly<Record<string, EncryptedStore>>,
): Promise<readonly Finding[]> {
  const of = ofKeys;
  try {
    const status = await rotationStatus(provider, { stores });
    if (status === undefined || status.step === "done") return [];
    const { kind, from, to, step, startedAtMs } = status;
    const text = `a ${rotationName[kind]} from key "${from}" to "${to}" began ${shownSince(startedAtMs)} ago, and is at step ${step}`;
    return [{ level: "warning", of, text, hint: `Finish the ${rotationName[kind]} with \`keyward rotate --resume\`.` }];
  } catch (error) {
    return [problemOf(of, error)];
  }
}

async function checkSaving(provider: KeyProvider): Promise<Finding> {
  const of = ofKeys;
  try {
    if (provider.save !== undefined) {
      await provider.requireWritable?.();
      const text =
        provider.requireWritable === undefined
          ? "the source can save a keyring; only a change shows whether this process has the permission"
          : "this process can save a changed keyring";
      return { level: "good", of, text };
    }
  } catch (error) {
    if (!(error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY")) return problemOf(of, error);
  }
  const hint = "`keyward rotate` prints which changes to make at the source of the keys.";
  return { level: "warning", of, text: "this process cannot save a changed keyring", hint };
}

async function checkStore(
  of: Subject,
  store: EncryptedStore,
  keys: KeyProvider,
  {
    checkInner,
    takesWrites,
  }: { readonly checkInner: () => Promise<readonly Finding[]>; readonly takesWrites: boolean },
): Promise<readonly Finding[]> {
  try {
    await store.ready();
  } catch (error) {
    return [problemOf(of, error)];
  }
  const findings: Finding[] = [{ level: "good", of, text: "answers, and the keys belong to it" }];
  const checks = [
    checkInner,
    ...(takesWrites ? [() => checkWrites(of, store)] : []),
    () => checkReplicas(of, store, keys),
  ];
  for (const check of checks) {
    try {
      findings.push(...(await check()));
    } catch (error) {
      findings.push(problemOf(of, error));
    }
  }
  return findings;
}

async function checkWrites(of: Subject, store: EncryptedStore): Promise<readonly Finding[]> {
  // Deletes a key that no record has, so nothing changes.
  await store.delete(randomUUID());
  return [{ level: "good", of, text: "accepts writes of this process" }];
}

/** Checks that the Redis of the secrets service never deletes a record because its memory is full. */
async function checkEviction(
  { store: name, ...of }: Subject,
  store: WrappableStore | undefined,
  hasGateway: boolean,
): Promise<readonly Finding[]> {
  if (!hasGateway || name !== "service" || store === undefined) return [];
  try {
    const { requireNoEviction } = await import("../service/redis-policy.ts");
    await requireNoEviction(store);
    return [];
  } catch (error) {
    return [problemOf({ store: name, ...of }, error)];
  }
}

/** Checks that a process has written to the store before, in the scope of the command. */
async function checkUse(
  of: Subject,
  store: WrappableStore | undefined,
  scope: string | undefined,
): Promise<readonly Finding[]> {
  if (store === undefined || !hasReservedSpace(store)) return [];
  if ((await store.reserved().get(checkRecordKey(scope))) !== undefined) return [];
  const hint =
    "Compare the source of the store and `--scope` with those of the application. If the application has not written yet, nothing is wrong.";
  const where = scope === undefined ? "" : " in this scope";
  return [{ level: "warning", of, text: `no process has written to this store${where}`, hint }];
}

function checkCapabilities(of: Subject, store: WrappableStore | undefined): readonly Finding[] {
  if (store === undefined) return [];
  const lacks = [
    ...(isAtomic(store) ? [] : ["cannot replace a record only if it is unchanged"]),
    ...(isScannable(store) ? [] : ["cannot list its records"]),
  ];
  if (lacks.length === 0) return [];
  const hint = "Keys of this store cannot be rotated. Use another store, such as one of `@keyward/stores-from`.";
  return [{ level: "problem", of, text: lacks.join(", and "), hint }];
}

async function checkReplicas(of: Subject, store: EncryptedStore, keys: KeyProvider): Promise<readonly Finding[]> {
  const running = await runningReplicas(store);
  if (running.length === 0) {
    const hint =
      "Set the option `replica` of the stores in your application, so that a rotation can wait for its processes. If " +
      "no process uses the store now, nothing is wrong.";
    return [{ level: "warning", of, text: "no process is registered", hint }];
  }
  const count = `${running.length} ${running.length === 1 ? "process is" : "processes are"} registered`;
  const { generation, primary } = await keys.load();
  const wait = "During a rotation, wait until all processes have loaded the keys. Otherwise restart these processes.";
  const found: Finding[] = [];
  const report = (level: "warning" | "problem", concerned: readonly Replica[], problem: string, hint: string) => {
    const names = concerned.map(({ name }) => name).join(", ");
    if (concerned.length > 0) found.push({ level, of, text: `${problem}: ${names}`, hint });
  };
  const readable = running.filter(({ problem }) => problem === undefined);
  const unreadable = running.filter(({ problem }) => problem !== undefined);
  report(
    "problem",
    unreadable,
    "heartbeats cannot be decrypted, because their processes have other keys",
    "Give these processes the keys of this command.",
  );
  const late = readable.filter((replica) => replica.generation < generation || replica.primary !== primary);
  report("warning", late, `processes do not encrypt with the primary ${primary} of generation ${generation}`, wait);
  const commonKeys = keysOf(readable[0]);
  const other = readable.filter((replica) => keysOf(replica) !== commonKeys);
  report(
    "warning",
    other,
    `processes hold other keys than ${readable[0]?.name}`,
    `${wait} \`keyward replicas\` lists the keys.`,
  );
  const nowMs = Date.now();
  const ahead = readable.filter(({ lastSeenMs }) => lastSeenMs > nowMs + toleratedClockMs);
  const clock = "Synchronize the clocks, because records expire by the clock of the process that reads them.";
  report("warning", ahead, "the clocks of processes are ahead of the clock of this machine", clock);
  const behind = readable.filter(({ lastSeenMs, leaseMs }) => lastSeenMs < nowMs - leaseMs - toleratedClockMs);
  report("warning", behind, "the clocks of processes are behind the clock of this machine", clock);
  return [{ level: "good", of, text: count }, ...found];
}

/**
 * Returns the registered processes that are running. If the clock of a process is far behind, the process looks lapsed, but
 * its heartbeat changes.
 */
async function runningReplicas(store: EncryptedStore): Promise<readonly Replica[]> {
  const first = await replicas(store);
  if (first.every(({ lapsed }) => !lapsed)) return first;
  await sleep(heartbeatWaitMs);
  const seen = new Map(first.map(({ id, lastSeenMs }) => [id, lastSeenMs]));
  return (await replicas(store)).filter(({ id, lapsed, lastSeenMs }) => !lapsed || seen.get(id) !== lastSeenMs);
}

function keysOf(replica: Replica | undefined): string {
  return (replica?.keys ?? []).toSorted().join(" ");
}

/** Checks that a connection to another machine is encrypted. */
function checkConnection(of: Subject, source: string): readonly Finding[] {
  if (!source.startsWith("redis:")) return [];
  const isElsewhere = hostsOf(source).some((host) => !/^(localhost|127\..*|\[?::1\]?)$/.test(host));
  if (!isElsewhere) return [];
  const hint =
    "Use `rediss://` if the server has TLS. Without TLS, the keys of records and the password can be read on the way.";
  return [{ level: "warning", of, text: "the connection to another machine is not encrypted", hint }];
}

function hostsOf(source: string): readonly string[] {
  const authority = /^redis:\/\/(?:[^/?#]*@)?([^/?#]*)/.exec(source)?.[1] ?? "";
  return authority.split(",").map((host) => host.replace(/:\d+$/, ""));
}

function problemOf(of: Subject, error: unknown): Finding {
  if (!(error instanceof KeywardError)) throw error;
  const { code } = error;
  return { level: "problem", of, text: inCommandTerms(error.message), hint: inCommandTerms(error.hint), code };
}
