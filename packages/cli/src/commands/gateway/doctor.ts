import { type KeyProvider, KeywardError } from "@keyward/core";
import { type SecretsAdmin, SecretsError, verifyAudit } from "@keyward/secrets";
import type { Config } from "../../configuration/config.ts";
import { keyringFile } from "../../configuration/keyring-file.ts";
import type { Context } from "../../context.ts";
import { CommandError, ProblemsPrinted } from "../../exit-codes.ts";
import { auditPath, gatewayConfig, requireUsedStores, withLocalService } from "../../service/local-service.ts";
import { requireNoEviction } from "../../service/redis-policy.ts";
import { errorResult } from "../../terminal/output.ts";
import { checkFiles } from "./doctor-files.ts";
import { type Finding, good, problem, warning } from "./finding.ts";

const marks = { good: "ok", warning: "warning", problem: "PROBLEM" } as const;
const colors = { good: "green", warning: "yellow", problem: "red" } as const;
const toleratedClockMs = 5_000;
const answerWithinMs = 10_000;
const maxAnswerBytes = 4_096;
const maxShownRecords = 20;
const damagedHint =
  "Find out which program writes to the store. Restore a backup, or set the secret or make the token again.";
const missingHint =
  "Find out which program writes to the store. Restore a backup, or set the secret or make the token again. If a process was killed while it made a server or a token, do nothing: the service forgets the rest after a day.";

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
    findings.push(
      ...(await check("store", async () =>
        withLocalService(context, {}, async ({ admin, store }) => {
          const service = await check("store", async () => {
            await requireNoEviction(store);
            return await checkService(admin);
          });
          // With other keys, the records cannot be judged.
          if (service.some(({ level }) => level === "problem")) return service;
          return [
            ...service,
            ...(await check("store", async () => await checkRecords(admin, context.signal))),
            ...(await check("secrets", async () => await checkExpiry(admin))),
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

async function checkService(admin: SecretsAdmin): Promise<readonly Finding[]> {
  await admin.ready();
  return [good("store", "answers, the keys belong to it, and the service is set up"), good("audit", "can be written")];
}

/** Counts all records by the key that encrypted them, and then decrypts each record that the lists of the service name. */
async function checkRecords(admin: SecretsAdmin, signal: AbortSignal): Promise<readonly Finding[]> {
  const caller = admin.localOperator();
  const { unreadable } = await admin.census(caller);
  const { readable, problems, problemCount } = await admin.checkRecords(caller, { signal });
  const findings = problems.slice(0, maxShownRecords).map(({ record, code }): Finding => {
    const isMissing = code === "RECORD_MISSING";
    const message = `${record} ${isMissing ? "is missing, although it was not deleted" : "cannot be read"}`;
    return { ...problem("store", message, isMissing ? missingHint : damagedHint), code };
  });
  const more = problemCount - findings.length;
  if (more > 0) findings.push(problem("store", `${more} further records cannot be read or are missing`, damagedHint));
  if (unreadable > 0) {
    findings.push(problem("store", `${unreadable} records are damaged or not encrypted`, damagedHint));
  }
  if (findings.length > 0) return findings;
  return [good("store", `${readable} records were decrypted, and none that a list names is missing`)];
}

async function checkExpiry(admin: SecretsAdmin): Promise<readonly Finding[]> {
  const expiring = await admin.expiringSecrets(admin.localOperator());
  if (expiring.length === 0) return [good("secrets", "none has expired or expires within 7 days")];
  return expiring.map(({ workspace, server, name, expires }) => {
    const state = expires <= Date.now() ? "has expired" : "expires soon";
    const message = `${name} of the server ${server} ${state}: ${new Date(expires).toISOString()} (workspace ${workspace})`;
    const hint = `Let an admin of the workspace set a new value: \`keyward secrets set ${server} ${name}\`.`;
    return warning("secrets", message, hint);
  });
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

/** Checks that the service at a URL is ready, and that its clock agrees with the clock of this machine. */
async function checkUrl(url: string): Promise<readonly Finding[]> {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new CommandError("USAGE", "The value of --url is not a URL", {
      hint: "Pass a URL such as http://127.0.0.1:8490.",
    });
  }
  try {
    const target = new URL(`${new URL(url).href.replace(/\/+$/, "")}/readyz`);
    const response = await fetch(target, { redirect: "manual", signal: AbortSignal.timeout(answerWithinMs) });
    const isReady = response.ok && isReadyAnswer(await boundedText(response));
    if (!response.ok) await response.body?.cancel();
    const findings: Finding[] = isReady
      ? [good("service", `${target.origin} is ready`)]
      : response.ok
        ? [problem("service", `${target.origin} is not the secrets service`, "Check the URL.")]
        : [problem("service", `${target.origin} answers ${response.status}`, "Read the log of the service.")];
    return [...findings, clockFinding(Math.abs(Date.now() - Date.parse(response.headers.get("date") ?? "")))];
  } catch {
    const hint = "Check the URL, and that `keyward gateway start` runs. Read the log of the service.";
    return [problem("service", `${new URL(url).origin} does not answer`, hint)];
  }
}

/** Reads an answer that fits into a few KiB; "" for a longer one. */
async function boundedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > maxAnswerBytes) return "";
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function isReadyAnswer(text: string): boolean {
  try {
    const answer: unknown = JSON.parse(text);
    return typeof answer === "object" && answer !== null && "status" in answer && answer.status === "ready";
  } catch {
    return false;
  }
}

function clockFinding(apartMs: number): Finding {
  if (apartMs <= toleratedClockMs) return good("clock", "agrees with the clock of the service");
  const message = Number.isNaN(apartMs)
    ? "cannot be compared, because the answer of the service has no valid date"
    : `differs by ${Math.round(apartMs / 1_000)} seconds from the clock of the service`;
  return warning("clock", message, "Synchronize the clocks: values and tokens expire by them.");
}

/** Runs a check. An error of Keyward is a problem of the subject. */
async function check(subject: Finding["subject"], run: () => Promise<readonly Finding[]>): Promise<readonly Finding[]> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof KeywardError || error instanceof SecretsError || error instanceof CommandError)) throw error;
    const { code, message, hint } = errorResult(error);
    return [{ level: "problem", subject, message, hint, code }];
  }
}
