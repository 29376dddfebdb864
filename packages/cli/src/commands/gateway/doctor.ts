import { type KeyProvider, KeywardError } from "@keyward/core";
import { type SecretsAdmin, SecretsError, verifyAudit } from "@keyward/secrets";
import type { Config } from "../../configuration/config.ts";
import { keyringFile } from "../../configuration/keyring-file.ts";
import type { Context } from "../../context.ts";
import { CommandError, ProblemsPrinted } from "../../exit-codes.ts";
import { auditPath, gatewayConfig, requireUsedStores, withLocalService } from "../../service/local-service.ts";
import { requireNoEviction } from "../../service/redis-policy.ts";
import { hasOnlyBegun, lostStore } from "../../service/used-stores.ts";
import { errorResult } from "../../terminal/output.ts";
import { checkFiles } from "./doctor-files.ts";
import { checkUrl } from "./doctor-url.ts";
import { type Finding, good, problem, warning } from "./finding.ts";

const marks = { good: "ok", warning: "warning", problem: "PROBLEM" } as const;
const colors = { good: "green", warning: "yellow", problem: "red" } as const;
const maxShownRecords = 20;
const damagedHint =
  "Find out which program writes to the store. Restore a backup, or set the secret or make the token again.";
const missingHint =
  "Find out which program writes to the store. Restore a backup, or set the secret or make the token again. If a process was killed while it made a workspace, a server or a token, do nothing: the service forgets the rest after a day. If only tokens are missing, run this command again after the next hourly sweep: a process that is killed during a sweep may leave the entry of a token that ended 30 days ago.";
const putBackHint =
  "Find out which program writes to the store. Then restart every process of the service, which deletes the record again.";

const unlistedHint =
  "Calls may still use the record. Find out which program writes to the store: it has removed a list, or has put the record back after its deletion. If nobody has deleted the record, delete nothing: restore a backup of the store, start with `keyward gateway start --revoke-tokens-before` and the time of the restore, and keep the flag for later starts. Until then, an admin revokes such a token by its id: `keyward tokens revoke <id>`. If an admin has deleted this server before, delete the server again: `keyward servers remove <slug>`. If an operator has deleted this workspace before, no command can delete it again: start with `--revoke-tokens-before` and the current time, which refuses the tokens of all workspaces, and keep the flag for later starts.";

/** The text and the hint for a record that has another problem than being unreadable, by the code of the problem. */
const recordStates: ReadonlyMap<string, { readonly state: string; readonly hint: string }> = new Map([
  ["RECORD_MISSING", { state: "is missing, although it was not deleted", hint: missingHint }],
  ["RECORD_ROLLED_BACK", { state: "was put back after it was deleted or changed", hint: putBackHint }],
]);

/**
 * Checks a secrets service and prints a line for each check. Changes nothing.
 *
 * @throws ProblemsPrinted if a check found a problem, after all checks were printed.
 */
export async function gatewayDoctor(context: Context, { url }: { readonly url?: string }): Promise<void> {
  const { output } = context;
  const config = await gatewayConfig(context);
  const told = await context.told();
  const findings: Finding[] = [good("configuration", told.path)];
  const files = await checkFiles(config, keyringFile(told));
  findings.push(...files);
  const keys = await check("keys", async () => await checkKeys(await context.keys(), context.signal));
  findings.push(...keys);
  const used = await check("store", async () => {
    await requireUsedStores(context, config);
    return [];
  });
  findings.push(...used);
  // Without keys nothing can be read, and in an unused store there is nothing to read.
  if ([...keys, ...used].every(({ level }) => level !== "problem")) {
    const unread: unknown[] = [];
    const onProblem = (error: unknown) => void unread.push(error);
    findings.push(
      ...(await check("store", async () =>
        withLocalService(context, { onProblem }, async ({ admin, store }) => {
          const service = await check("store", async () => {
            await requireNoEviction(store);
            return await checkService(context, config, admin);
          });
          // If the keys do not belong to the store, further checks would report every record.
          if (service.some(({ level }) => level === "problem")) return service;
          return [
            ...service,
            ...(await check("store", async () => await checkRecords(admin, context.signal))),
            ...(await check("secrets", async () => await checkExpiry(admin, unread))),
          ];
        }),
      )),
    );
    findings.push(...(await check("audit", async () => await checkAudit(context, config))));
  }
  if (url !== undefined) findings.push(...(await checkUrl(url)));
  const lines = findings.map(({ level, subject, message, hint, code }) => {
    const shown = code === null ? message : `${message} (${code})`;
    const line = `${output.styled(colors[level], marks[level].padEnd(7))}  ${subject}: ${shown}`;
    return hint === null ? line : `${line}\n         ${hint}`;
  });
  const problems = findings.filter(({ level }) => level === "problem").length;
  const warnings = findings.filter(({ level }) => level === "warning").length;
  output.result(lines.join("\n"), { problems, warnings, findings });
  if (problems > 0) throw new ProblemsPrinted();
}

async function checkKeys(keys: KeyProvider, signal: AbortSignal): Promise<readonly Finding[]> {
  const { primary, generation, stores } = await keys.load({ signal });
  const missing = ["service", "audit"].filter((name) => !stores.includes(name));
  if (missing.length === 0) return [good("keys", `generation ${generation}, primary ${primary}`)];
  const hint = `Let the keyring list the stores: \`keyward keyring stores ${[...stores, ...missing].join(" ")}\`.`;
  return [problem("keys", `the keyring does not list the stores: ${missing.join(", ")}`, hint)];
}

async function checkService(context: Context, config: Config, admin: SecretsAdmin): Promise<readonly Finding[]> {
  // `state` is checked first: a service that has lost the record of its installation must be restored, not initialized again.
  const file = { path: auditPath(config), keys: await context.keys() };
  const isLost = async () => (await admin.state()) !== "initialized" && !(await hasOnlyBegun(file));
  // Another process may have finished the initialization between both reads.
  if ((await isLost()) && (await isLost())) throw lostStore(config, file.path);
  await admin.ready();
  return [good("store", "answers, the keys belong to it, and the service is set up"), good("audit", "can be written")];
}

/**
 * Counts all records by the key that encrypted them, decrypts each record that the lists of the service name, and looks for
 * records that no list and no other record names.
 */
async function checkRecords(admin: SecretsAdmin, signal: AbortSignal): Promise<readonly Finding[]> {
  const caller = admin.localOperator();
  const { unreadable } = await admin.census(caller);
  const { readable, problems, problemCount, unlisted, unlistedCount } = await admin.checkRecords(caller, { signal });
  const findings = problems.slice(0, maxShownRecords).map(({ record, code }): Finding => {
    const { state, hint } = recordStates.get(code) ?? { state: "cannot be read", hint: damagedHint };
    return { ...problem("store", `${record} ${state}`, hint), code };
  });
  const more = problemCount - findings.length;
  if (more > 0) findings.push(problem("store", `${more} further records cannot be read or are missing`, damagedHint));
  if (unreadable > 0) {
    findings.push(problem("store", `${unreadable} records are damaged or not encrypted`, damagedHint));
  }
  const shown = unlisted.slice(0, maxShownRecords);
  for (const record of shown) {
    findings.push(problem("store", `${record} is stored, and no list and no other record names it`, unlistedHint));
  }
  const others = unlistedCount - shown.length;
  if (others > 0)
    findings.push(
      problem(
        "store",
        `${others} further records are stored, and no list and no other record names them`,
        unlistedHint,
      ),
    );
  if (findings.length > 0) return findings;
  return [good("store", `${readable} records were decrypted, none is missing, and each is in its list`)];
}

/** @param unread the errors that the service has reported while the command read the records. */
async function checkExpiry(admin: SecretsAdmin, unread: readonly unknown[]): Promise<readonly Finding[]> {
  const expiring = await admin.expiringSecrets(admin.localOperator());
  const findings = expiring.map(({ workspace, server, name, expires }) => {
    const state = expires <= Date.now() ? "has expired" : "expires soon";
    const message = `${name} of the server ${server} ${state}: ${new Date(expires).toISOString()} (workspace ${workspace})`;
    const hint = `Let an admin of the workspace set a new value: \`keyward secrets set ${server} ${name}\`.`;
    return warning("secrets", message, hint);
  });
  // Two records may have the same problem.
  const reasons = new Map(unread.map((error) => [errorResult(error).message, errorResult(error)]));
  for (const { message, hint, code } of [...reasons.values()].slice(0, maxShownRecords)) {
    findings.push({
      ...problem("secrets", `some secrets may expire unnoticed. ${message}`, hint ?? damagedHint),
      code,
    });
  }
  return findings.length > 0 ? findings : [good("secrets", "none has expired or expires within 7 days")];
}

async function checkAudit(context: Context, config: Config): Promise<readonly Finding[]> {
  const path = auditPath(config);
  const { ok, entries, chains, problemCount } = await verifyAudit({
    path,
    keys: await context.keys(),
    signal: context.signal,
  });
  if (ok) return [good("audit", `${entries} entries in ${chains} chains verify`)];
  return [problem("audit", `${problemCount} problems in ${path}`, "Run `keyward audit verify`, which lists them.")];
}

/** Runs a check. Returns an error of Keyward as a problem of the subject, and throws any other error. */
async function check(subject: Finding["subject"], run: () => Promise<readonly Finding[]>): Promise<readonly Finding[]> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof KeywardError || error instanceof SecretsError || error instanceof CommandError)) throw error;
    const { code, message, hint } = errorResult(error);
    return [{ level: "problem", subject, message, hint, code }];
  }
}
