import {
  type Instruct,
  type KeyProvider,
  KeywardError,
  type PlannedStep,
  planRotation,
  type RevocationOrder,
  type RotateKeyOptions,
  type RotationOptions,
  type RotationProgress,
  type RotationReport,
  type RotationStatus,
  type RotationStep,
  revocationCost,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import type { OpenStores } from "../configuration/sources.ts";
import type { Context } from "../context.ts";
import { exitCodes, ProblemsPrinted } from "../exit-codes.ts";
import { costResult, planResult, rotationResult, rotationRunResult } from "../results/rotation-result.ts";
import { inCommandTerms } from "../terminal/command-terms.ts";
import { shownDuration, shownSince } from "../terminal/durations.ts";
import { type Output, table } from "../terminal/output.ts";

/** The name of each kind of rotation in texts for people. */
export const rotationName: Readonly<Record<RotationStatus["kind"], string>> = {
  rotate: "rotation",
  revoke: "revocation",
  "roll-back": "roll-back",
};

/** The options that the commands of a rotation share. */
export interface RotationCommandOptions {
  readonly until?: RotationStep;
  readonly grace?: number;
  readonly maxPerSecond?: number;
  readonly unregistered?: number;
  readonly replicasWithin?: number;
  readonly ignoreReplica?: readonly string[];
  readonly abandonUnreadable?: boolean;
}

/** The options of `keyward rotate`. */
export interface RotateCommandOptions extends RotationCommandOptions {
  readonly newKey?: string;
  readonly dryRun?: boolean;
  /** True to continue a running rotation, and to begin none. */
  readonly resume?: boolean;
}

/** The options of `keyward revoke`. */
export interface RevokeCommandOptions extends RotationCommandOptions {
  readonly newKey?: string;
  readonly order?: RevocationOrder;
}

// A command does not wait for a longer grace. The operator runs the same command again after the grace.
const longestWaitMs = 60_000;
const orders: readonly RevocationOrder[] = ["reencrypt-first", "disable-first"];
const defaultGraceMs = 86_400_000;

/** Rotates the key, or with `--dry-run` prints the steps. */
export async function rotate(context: Context, options: RotateCommandOptions): Promise<void> {
  await context.withStores(async (keys, stores) => {
    const { newKey } = options;
    const settings: RotateKeyOptions = {
      ...(await rotationSettings(context, stores, options)),
      ...(newKey === undefined ? {} : { newKey: { id: newKey } }),
    };
    if (options.dryRun === true) {
      const plan = await planRotation(keys, settings);
      const rows = plan.steps.map((planned) => [planned.step, descriptionOf(planned)]);
      context.output.result(table([["step", "what it would do"], ...rows]), { dryRun: true, ...planResult(plan) });
      if (newKey === undefined && plan.steps.some((planned) => planned.step === "add" && !planned.done)) {
        context.output.progress("The id of the new key is an example. To choose the id, pass `--new-key <id>`.");
      }
      return;
    }
    await requireReady(stores);
    const run = options.resume === true ? await resumingRun(keys, settings) : rotateKey;
    if (run === undefined) {
      const text = "No rotation, roll-back or revocation is running, and none was begun.";
      context.output.result(text, { dryRun: false, rotation: null });
      return;
    }
    const report = await inParts(context, options, settings.graceMs, (until) => run(keys, { ...settings, ...until }));
    context.output.result(textOf(report), { dryRun: false, ...rotationRunResult(report, Object.keys(stores)) });
  });
}

/** Returns the function that continues the running rotation, roll-back or revocation; `undefined` if none is running. */
async function resumingRun(keys: KeyProvider, { stores }: RotateKeyOptions): Promise<typeof rotateKey | undefined> {
  const status = await rotationStatus(keys, { stores });
  if (status === undefined || status.step === "done") return undefined;
  const { kind, from: id, order } = status;
  switch (kind) {
    case "rotate":
      return rotateKey;
    case "roll-back":
      return rollBackRotation;
    case "revoke":
      return order === undefined ? undefined : (provider, options) => revokeKey(provider, { ...options, id, order });
  }
}

/** Undoes the running rotation. */
export async function rollBack(context: Context, options: RotationCommandOptions): Promise<void> {
  await context.withStores(async (keys, stores) => {
    const settings = await rotationSettings(context, stores, options);
    const report = await inParts(context, options, settings.graceMs, (until) =>
      rollBackRotation(keys, { ...settings, ...until }),
    );
    context.output.result(textOf(report), rotationRunResult(report, Object.keys(stores)));
  });
}

/** Takes a compromised key out of use. Without an order, shows what each order costs, and asks for it on a terminal. */
export async function revoke(context: Context, id: string, options: RevokeCommandOptions): Promise<void> {
  await context.withStores(async (keys, stores) => {
    const { newKey } = options;
    const order = options.order ?? (await askOrder(context, keys, stores, id));
    if (order === undefined) return;
    const settings = {
      ...(await rotationSettings(context, stores, options)),
      ...(newKey === undefined ? {} : { newKey: { id: newKey } }),
      id,
      order,
    };
    const report = await inParts(context, options, settings.graceMs, (until) =>
      revokeKey(keys, { ...settings, ...until }),
    );
    context.output.result(textOf(report), rotationRunResult(report, Object.keys(stores)));
  });
}

/**
 * Shows what each order costs. Returns the order that the operator types on the terminal; `undefined` for no answer.
 *
 * @throws ProblemsPrinted if there is no terminal.
 */
async function askOrder(
  { output, operator, signal }: Context,
  keys: KeyProvider,
  stores: OpenStores["stores"],
  id: string,
): Promise<RevocationOrder | undefined> {
  const cost = await revocationCost(keys, { stores, id, signal });
  const costs = [
    `${cost.total} records are under key "${id}".`,
    "--order reencrypt-first keeps them readable, and keeps records that an attacker has forged.",
    "--order disable-first accepts no forged record, and makes all of these records unreadable.",
  ];
  if (operator.isPresent && !output.isJson) {
    for (const line of costs) output.notice(line);
    const answer = await operator.ask("The order, reencrypt-first or disable-first (empty to change nothing):", "");
    const order = orders.find((known) => known === answer.trim());
    if (order !== undefined) return order;
    output.result("Nothing was changed.", costResult(id, cost));
    return undefined;
  }
  output.result(
    [...costs, "Nothing was changed. Run the command again with the order of your choice."].join("\n"),
    costResult(id, cost),
  );
  // With this exit code, a script does not treat the key as revoked, which is still in use.
  throw new ProblemsPrinted(exitCodes.usage);
}

/** Shows the running rotation, or the last one. */
export async function showStatus(context: Context): Promise<void> {
  await context.withStores(async (keys, stores, listed) => {
    requireListedStores(listed, stores);
    const status = await rotationStatus(keys, { stores });
    context.output.result(statusText(status), { rotation: rotationResult(status) });
  });
}

function statusText(status: RotationStatus | undefined): string {
  if (status === undefined) return "There was no rotation yet.";
  const { kind, from, to, step, startedAtMs } = status;
  const state = step === "done" ? "done" : `at step ${step}`;
  return `${rotationName[kind]} from key "${from}" to "${to}": ${state}, begun ${shownSince(startedAtMs)} ago`;
}

/**
 * Checks that the command has every store that the keyring lists. One of these stores has the record of the rotation.
 *
 * @throws KeywardError `STORES_MISSING`.
 */
function requireListedStores(listed: readonly string[], stores: OpenStores["stores"]): void {
  const missing = listed.filter((name) => !(name in stores));
  if (missing.length === 0) return;
  const problem = `The keyring lists stores that no flag, environment variable or configuration names: ${missing.join(", ")}`;
  throw new KeywardError("STORES_MISSING", problem, {
    hint: "Name each store that the keyring lists: `--store name=source`.",
  });
}

/** Checks that the keys belong to each store, before a rotation changes anything. */
export async function requireReady(stores: OpenStores["stores"]): Promise<void> {
  for (const store of Object.values(stores)) await store.ready();
}

/**
 * Runs a rotation up to the grace. If the grace is short, or over, runs the steps after it too. Otherwise the operator
 * runs the command again after the grace. Returns one report for all steps that were run.
 */
async function inParts(
  context: Context,
  { until }: RotationCommandOptions,
  graceMs: number,
  run: (until: { readonly until?: RotationStep }) => Promise<RotationReport>,
): Promise<RotationReport> {
  let report = await run({ until: until ?? "disable" });
  if (until === undefined && (report.step === "grace" || report.step === "remove")) {
    const leftMs = report.step === "remove" ? 0 : (report.disabledAtMs ?? Date.now()) + graceMs - Date.now();
    if (leftMs <= longestWaitMs) report = joined(report, await run({}));
    else {
      context.endProgress();
      const advice = `Run the same command again in ${shownDuration(leftMs)}, or now with --grace 0s.`;
      context.output.notice(`Key "${report.from}" is removed after the grace. ${advice}`);
    }
  }
  context.endProgress();
  for (const [store, records] of Object.entries(report.madeUnreadable)) {
    if (records > 0) context.output.notice(`${records} records of the store ${store} are unreadable now.`);
  }
  return report;
}

/** Returns one report for two runs of a rotation, one after the other. */
function joined(first: RotationReport, second: RotationReport): RotationReport {
  return {
    ...second,
    reencrypted: { ...first.reencrypted, ...second.reencrypted },
    madeUnreadable: { ...first.madeUnreadable, ...second.madeUnreadable },
    // The second run finds the abandoned records again when it counts the records under the old key.
    abandoned: second.abandoned.length > 0 ? second.abandoned : first.abandoned,
  };
}

function textOf({ kind, from, to, step }: RotationReport): string {
  return `${rotationName[kind]} from key "${from}" to "${to}": ${step === "done" ? "done" : `the next step is ${step}`}`;
}

/** Returns the settings of a rotation. A flag overrides the same setting of the configuration. */
export async function rotationSettings(
  context: Context,
  stores: OpenStores["stores"],
  options: RotationCommandOptions,
): Promise<RotationOptions & { readonly graceMs: number }> {
  const { output, signal } = context;
  const configured = await context.rotationSettings();
  const records = await context.recordProgress(stores);
  const maxPerSecond = options.maxPerSecond ?? configured.maxPerSecond;
  const unregistered = options.unregistered ?? configured.unregisteredMs;
  const replicasWithin = options.replicasWithin ?? configured.replicasWithinMs;
  return {
    stores,
    ignoreReplicas: options.ignoreReplica ?? [],
    abandonUnreadable: options.abandonUnreadable === true,
    graceMs: options.grace ?? configured.graceMs ?? defaultGraceMs,
    signal,
    instruct: printInstruction(output),
    onProgress: (progress) => {
      if (progress.kind === "reencrypting") records.show(progress.store, progress.progress);
      else if (progress.kind === "counting") records.line(countingLine(progress.records));
      else {
        records.end();
        output.progress(progressLine(progress));
      }
    },
    ...(maxPerSecond === undefined ? {} : { reencrypt: { maxPerSecond } }),
    ...(unregistered === undefined ? {} : { unregistered: { waitMs: unregistered } }),
    ...(replicasWithin === undefined ? {} : { replicasWithinMs: replicasWithin }),
  };
}

function descriptionOf(planned: PlannedStep): string {
  switch (planned.step) {
    case "add":
      return planned.done ? `nothing: the keyring has key "${planned.keyId}"` : `add key "${planned.keyId}"`;
    case "promote":
      return planned.done
        ? `nothing: key "${planned.keyId}" is the primary`
        : `make key "${planned.keyId}" the primary`;
    case "remove":
      return planned.done ? `nothing: key "${planned.keyId}" is removed` : `remove key "${planned.keyId}"`;
    case "distribute":
    case "drain": {
      const waits = [
        ...planned.replicas.map(({ name, store, primary }) => `wait for ${name} in ${store} (primary ${primary})`),
        ...planned.unregistered.map(
          (store) => `no process is registered in ${store}, so the rotation needs --unregistered`,
        ),
      ];
      return waits.length === 0 ? "nothing to wait for now" : waits.join("; ");
    }
    case "reencrypt":
      return `re-encrypt the records: ${countsOf(planned.records)}`;
    case "disable":
      return `disable key "${planned.keyId}". Records under this key now: ${countsOf(planned.records)}`;
    case "grace":
      return `wait ${shownDuration(planned.waitMs)}`;
  }
}

function countsOf(records: Readonly<Record<string, number>>): string {
  return Object.entries(records)
    .map(([store, count]) => `${count} in ${store}`)
    .join(", ");
}

/** Returns a function that prints the instructions of a guided rotation. */
export function printInstruction(output: Output): Instruct {
  return ({ text, problem, needsRestart }) => {
    if (problem !== undefined) output.notice(inCommandTerms(`${problem.message} (${problem.code})\n${problem.hint}`));
    // The error of a source that needs a restart has the instruction as its hint.
    if (!needsRestart) output.notice(text);
  };
}

function countingLine(count: number): string {
  return `  searched ${count} records, including those of Keyward itself`;
}

function progressLine(progress: Exclude<RotationProgress, { readonly kind: "reencrypting" | "counting" }>): string {
  switch (progress.kind) {
    case "step":
      return progress.step;
    case "waiting": {
      const waiting = progress.replicas.map(({ name, store, primary, keys = [] }) => {
        const held = keys.length === 0 ? "" : `, keys ${keys.map((key) => key.split(":")[0]).join(" ")}`;
        return `${name} in ${store} (primary ${primary}${held})`;
      });
      return `  waiting for ${waiting.join(", ")}`;
    }
    case "grace":
      return `  until ${new Date(progress.untilMs).toISOString()}`;
  }
}
