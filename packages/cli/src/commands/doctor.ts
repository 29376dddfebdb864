import { type EncryptedStore, type KeyProvider, KeywardError, replicas, rotationStatus } from "@keyward/core";
import type { Context } from "../context.ts";
import { DoctorFoundProblems } from "../exit-codes.ts";
import { inCommandTerms } from "../terminal/command-terms.ts";
import { shownSince } from "../terminal/durations.ts";

/** One check: what was looked at, and how it is. */
interface Finding {
  readonly level: "good" | "warning" | "problem";
  /** What was looked at: "keys", or the name of a store. */
  readonly of: string;
  readonly text: string;
  /** What to do. Absent if the level is good. */
  readonly hint?: string;
}

const marks = { good: "ok", warning: "warning", problem: "PROBLEM" } as const;

/**
 * Checks the keys, and each store with the keys, and prints a line for each check. Changes nothing.
 *
 * @throws DoctorFoundProblems if a check found a problem, after all checks were printed.
 */
export async function doctor(context: Context): Promise<void> {
  const notOpened: Finding[] = [];
  const check = async (
    keys: KeyProvider,
    stores: Readonly<Record<string, EncryptedStore>>,
    listed: readonly string[],
  ): Promise<void> => {
    const findings = [...(await checkKeys(keys, context.signal)), ...notOpened];
    findings.push(...checkNames(listed, [...Object.keys(stores), ...notOpened.map(({ of }) => of)]));
    // The record of a rotation may be in a store that is missing here.
    if (findings.every(({ level }) => level !== "problem")) findings.push(...(await checkRotation(keys, stores)));
    for (const [name, store] of Object.entries(stores)) {
      context.signal.throwIfAborted();
      findings.push(...(await checkStore(name, store)));
    }
    const lines = findings.map(({ level, of, text, hint }) => {
      const line = `${marks[level].padEnd(7)}  ${of}: ${text}`;
      return hint === undefined ? line : `${line}\n         ${hint}`;
    });
    context.output.result(lines.join("\n"), findings);
    if (findings.some(({ level }) => level === "problem")) throw new DoctorFoundProblems();
  };
  await context.withStores(check, (name, error) => notOpened.push(problemOf(name, error)));
}

async function checkKeys(provider: KeyProvider, signal: AbortSignal): Promise<readonly Finding[]> {
  const of = "keys";
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
    ...missing.map((of) => ({
      level: "problem" as const,
      of,
      text: "the keyring lists this store, which was not named",
      hint,
    })),
    ...unlisted.map((of) => ({ level: "problem" as const, of, text: "the keyring does not list this store", hint })),
  ];
}

async function checkRotation(
  provider: KeyProvider,
  stores: Readonly<Record<string, EncryptedStore>>,
): Promise<readonly Finding[]> {
  const of = "keys";
  try {
    const status = await rotationStatus(provider, { stores });
    if (status === undefined || status.step === "done") return [];
    const { kind, from, to, step, startedAtMs, order = "" } = status;
    const text = `a ${kind} from key "${from}" to "${to}" began ${shownSince(startedAtMs)} ago, and is at step ${step}`;
    const command = { rotate: "rotate", revoke: `revoke ${from} --order ${order}`, "roll-back": "rollback" }[kind];
    return [{ level: "warning", of, text, hint: `Finish it with \`keyward ${command}\`.` }];
  } catch (error) {
    return [problemOf(of, error)];
  }
}

async function checkSaving(provider: KeyProvider): Promise<Finding> {
  const of = "keys";
  try {
    if (provider.save !== undefined) {
      await provider.requireWritable?.();
      return { level: "good", of, text: "this process can save a changed keyring" };
    }
  } catch (error) {
    if (!(error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY")) return problemOf(of, error);
  }
  const hint = "A rotation tells you which changes to make at the source of the keys.";
  return { level: "warning", of, text: "this process cannot save a changed keyring", hint };
}

async function checkStore(of: string, store: EncryptedStore): Promise<readonly Finding[]> {
  try {
    await store.ready();
  } catch (error) {
    return [problemOf(of, error)];
  }
  const ready: Finding = { level: "good", of, text: "answers, and the keys belong to it" };
  try {
    return [ready, await checkReplicas(of, store)];
  } catch (error) {
    return [ready, problemOf(of, error)];
  }
}

async function checkReplicas(of: string, store: EncryptedStore): Promise<Finding> {
  const listed = await replicas(store);
  const running = listed.filter(({ lapsed }) => !lapsed);
  const unreadable = running.filter(({ problem }) => problem !== undefined);
  if (unreadable.length > 0) {
    const text = `${unreadable.length} of ${running.length} registered processes have other keys`;
    return { level: "problem", of, text, hint: "Give these processes the same keys: `keyward replicas` lists them." };
  }
  const primaries = new Set(running.map(({ primary }) => primary));
  if (primaries.size > 1) {
    const text = `the registered processes encrypt with different keys: ${[...primaries].join(", ")}`;
    const hint =
      "During a rotation, wait until all processes have loaded the keys. Otherwise restart the late processes.";
    return { level: "warning", of, text, hint };
  }
  if (running.length > 0) return { level: "good", of, text: `${running.length} processes are registered` };
  const hint =
    "Set the option `replica` of the stores in your application, so that a rotation can wait for its processes. If no " +
    "process uses the store now, nothing is wrong.";
  return { level: "warning", of, text: "no process is registered", hint };
}

function problemOf(of: string, error: unknown): Finding {
  if (!(error instanceof KeywardError)) throw error;
  const text = `${inCommandTerms(error.message)} (${error.code})`;
  return { level: "problem", of, text, hint: inCommandTerms(error.hint) };
}
