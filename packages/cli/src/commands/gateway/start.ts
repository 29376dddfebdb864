import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunningAdminServer } from "@keyward/admin";
import { KeywardError, packageNotLoaded, systemCode } from "@keyward/core";
import type { GatewayProblem, RunningGateway } from "@keyward/gateway";
import {
  type AuditFile,
  type AuditLog,
  type ExpiringSecret,
  hasAuditChains,
  type SecretsAdmin,
  SecretsError,
} from "@keyward/secrets";
import type { Config } from "../../configuration/config.ts";
import { keyringFile } from "../../configuration/keyring-file.ts";
import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { type FirstTokens, setUpService } from "../../service/first-tokens.ts";
import { auditPath, gatewayConfig, localState, withLocalService } from "../../service/local-service.ts";
import { requireNoEviction } from "../../service/redis-policy.ts";
import { hasOnlyBegun, lostAudit, lostStore, usedStores } from "../../service/used-stores.ts";
import { errorResult } from "../../terminal/output.ts";
import { checkFiles } from "./doctor-files.ts";

/** The options of `keyward gateway start`. */
export interface GatewayStartOptions {
  readonly host?: string;
  readonly port: number;
  readonly publicUrl?: string;
  readonly adminHost?: string;
  readonly adminPort: number;
  readonly adminUrl?: string;
  readonly allowAddress?: readonly string[];
  readonly trustProxy?: readonly string[];
  /** Revokes the tokens that were created before this time, in milliseconds since the epoch. */
  readonly revokeTokensBefore?: number;
  /** True if the clock of a machine was ahead of the true time when `revokeTokensBefore` revoked tokens before. Then that time is corrected. */
  readonly clockWasAhead: boolean;
  readonly workspace: string;
  /** True to continue with a new audit, after the audit was lost. */
  readonly newAudit: boolean;
}

const sweepEveryMs = 3_600_000;
const waitedAttempts = 10;
const waitedMs = 500;
const drainMs = 7_000;
// The calls in progress may take longer than a request of an admin.
const callDrainMs = 30_000;
const stopWithinMs = callDrainMs + 10_000;
const maxFrames = 5;
const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|::1)$/;

/** Runs the secrets service until the operator stops the command: the gateway, the admin API, and a sweep each hour. */
export async function startGateway(context: Context, options: GatewayStartOptions): Promise<void> {
  const { output, signal } = context;
  const { startAdminServer } = await import("@keyward/admin").catch(
    packageNotLoaded("@keyward/admin", "This command", "STORE_INVALID"),
  );
  const { GatewayProblem, parseAddressException, startGateway } = await import("@keyward/gateway").catch(
    packageNotLoaded("@keyward/gateway", "This command", "STORE_INVALID"),
  );
  const allowedAddresses = (options.allowAddress ?? []).map((text) => addressException(parseAddressException, text));
  const config = await gatewayConfig(context);
  const log = logTo(context);
  const folder = dirname(auditPath(config));
  output.notice(
    `A copy of ${folder} is everything that the service knows, with its keyring. Let only the user of the service read the folder, and keep backups encrypted.`,
  );
  for (const { level, message, hint } of await checkFiles(config, keyringFile(await context.told()))) {
    if (level === "problem") output.notice(`${message}. ${hint ?? ""}`);
  }
  const { host, port, publicUrl, adminHost, adminPort, adminUrl, trustProxy } = options;
  const listen = async (admin: SecretsAdmin, gateway?: RunningGateway) =>
    await startAdminServer({
      admin,
      host: adminHost,
      port: adminPort,
      publicUrl: adminUrl,
      trustProxies: trustProxy,
      callUrl: gateway && (publicUrl ?? gateway.url),
      stateOf: gateway?.stateOf,
      drainMs,
      onError: (error, { requestId }) => log.problem(error, requestId),
    });
  const isEmpty = await isNew(context, config, options.newAudit);
  const first = isEmpty ? await setUp(context, listen, options.workspace) : undefined;
  await withLocalService(context, { mayBeNew: true, replica: true, onProblem: log.problem }, async (service) => {
    const { admin, audit, keys, store } = service;
    await requireNoEviction(store);
    // First, because the service is not ready if a clock that was ahead has revoked tokens before.
    if (options.revokeTokensBefore !== undefined) await revokeTokens(context, admin, options);
    await admin.ready();
    if (options.newAudit) await beginAudit(audit, admin, { path: auditPath(config), keys });
    context.allowStop(stopWithinMs);
    const starting = startGateway({
      store,
      keys,
      audit,
      ready: () => admin.ready(),
      replica: true,
      host,
      port,
      publicUrl,
      trustProxies: trustProxy,
      allowedAddresses,
      drainMs: callDrainMs,
      onProblem: (problem, call) => {
        if (problem instanceof GatewayProblem) log.call(problem, call?.callId);
        else log.problem(problem);
      },
    });
    const gateway = await starting.catch(portTaken("--port"));
    const server = await listen(admin, gateway)
      .catch(portTaken("--admin-port"))
      .catch(async (error: unknown) => {
        await gateway.close();
        throw error;
      });
    log.event("start", { url: gateway.url, adminUrl: server.url });
    warnOfNames(context, options);
    output.result(`The gateway listens on ${gateway.url}, and the admin API on ${server.url}`, {
      url: gateway.url,
      adminUrl: server.url,
      initialized: first !== undefined,
      tokensFile: first?.tokensFile ?? null,
    });
    const sweeping = sweepHourly(admin, signal, log);
    await aborted(signal);
    log.event("stopping", { openCalls: gateway.openCalls });
    await Promise.all([server.close(), gateway.close()]);
    await sweeping;
    log.event("stop", {});
  });
}

/**
 * Returns a function that throws the error of a listener again. If another process has the port, the error names the flag
 * that chooses another port.
 */
function portTaken(flag: string): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof KeywardError) || systemCode(error.cause) !== "EADDRINUSE") throw error;
    throw new KeywardError(error.code, `${error.message}, because another process has this port`, {
      hint: `Stop the other process, which may be this service, or choose another port: \`${flag} <number>\`.`,
      cause: error.cause,
    });
  };
}

/** Parses a value of `--allow-address`. Throws CommandError `USAGE` if the text is not an address with a port. */
function addressException<Exception>(parse: (text: string) => Exception, text: string): Exception {
  try {
    return parse(text);
  } catch (error) {
    throw new CommandError("USAGE", "A value of --allow-address is not an address that can be allowed", {
      hint: error instanceof Error ? error.message : "Write an address and a port, such as 127.0.0.1:3000.",
    });
  }
}

/** Warns if a listener is open to other machines, but answers only requests for localhost. */
function warnOfNames({ output }: Context, { host, publicUrl, adminHost, adminUrl }: GatewayStartOptions): void {
  const isOpen = (address: string | undefined) => address !== undefined && !loopback.test(address);
  if (isOpen(host) && publicUrl === undefined) {
    output.notice(
      "The gateway answers only requests for localhost. For requests to another host name, pass `--public-url`.",
    );
  }
  if (isOpen(adminHost) && adminUrl === undefined) {
    output.notice(
      "The admin API answers only requests for localhost. For requests to another host name, pass `--admin-url`.",
    );
  }
}

/**
 * Returns whether the service is new: no process has used its stores. Waits for another process that started at the same
 * time and sets the service up. Looks before the service is opened, because a process that runs the service registers in
 * both stores.
 *
 * @throws CommandError `USAGE` if one of the stores was lost, or belongs to another program.
 */
async function isNew(context: Context, config: Config, mayHaveNewAudit: boolean): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    const { service, audit } = await usedStores(context, config);
    const file = { path: auditPath(config), keys: await context.keys() };
    const state = service ? await localState(context) : "new";
    if (state === "initialized") {
      if (mayHaveNewAudit || (audit && (await hasAuditChains(file)))) return false;
      throw lostAudit(file.path);
    }
    // An initialization that was interrupted begins again, unless the audit says that the service was finished.
    const isOnlyBegun = !audit || (await hasOnlyBegun(file));
    if (isOnlyBegun && (audit || state === "initializing" || !service)) return true;
    if (attempt >= waitedAttempts) throw isOnlyBegun ? foreignStore() : lostStore(config, file.path);
    await sleep(waitedMs, undefined, { signal: context.signal });
  }
}

function foreignStore(): CommandError {
  return new CommandError("USAGE", "The store was used with a keyring before, and has no secrets service", {
    hint: "Check that `gateway.store` of the configuration names the right store. If the service is to begin in this store, run `keyward gateway init`.",
  });
}

/**
 * Sets a new service up, as `keyward gateway init` does. Listens before the first tokens are made, because a failure after
 * that, such as a busy port, would lose the tokens. Does not register this process in the stores, so a failure leaves the
 * stores unused.
 */
async function setUp(
  context: Context,
  listen: (admin: SecretsAdmin) => Promise<RunningAdminServer>,
  workspace: string,
): Promise<FirstTokens | undefined> {
  return await withLocalService(context, { mayBeNew: true }, async ({ admin, store, config }) => {
    await requireNoEviction(store);
    const server = await listen(admin);
    let first: FirstTokens | undefined;
    const show = async (tokens: FirstTokens) => {
      first = tokens;
      if (!context.output.isJson) context.output.result(tokens.text, {});
    };
    try {
      await setUpService(context.output, admin, { workspace, printsTokens: false, beside: auditPath(config), show });
    } catch (error) {
      // Another process that started at the same time has set the service up.
      if (!(error instanceof SecretsError && error.code === "ALREADY_INITIALIZED")) throw error;
      return undefined;
    } finally {
      await server.close();
    }
    context.output.notice("The store was empty, so a new secrets service was set up in it.");
    return first;
  });
}

/** Records that a new audit begins. Without an entry, the next start would take the audit for an emptied one. */
async function beginAudit(audit: AuditLog, admin: SecretsAdmin, file: AuditFile): Promise<void> {
  if (await hasAuditChains(file)) return;
  const change = await audit.begin({ action: "audit.begin", workspace: undefined, caller: admin.localOperator() });
  await change.end("done");
}

async function revokeTokens(
  { output }: Context,
  admin: SecretsAdmin,
  { revokeTokensBefore: before = 0, clockWasAhead }: GatewayStartOptions,
): Promise<void> {
  const time = new Date(before).toISOString();
  const count = await admin.revokeTokensBefore(admin.localOperator(), before, { clockWasAhead });
  output.notice(
    `Revoked ${count} tokens that were created before ${time}, or are dated after now by a clock that was ahead. To make new ones on this machine, run \`keyward tokens recover\`.`,
  );
}

async function sweepHourly(admin: SecretsAdmin, signal: AbortSignal, log: Log): Promise<void> {
  while (!signal.aborted) {
    try {
      const { removed, expiring } = await admin.sweep({ signal });
      if (removed > 0) log.event("sweep", { removed });
      for (const secret of expiring) log.event("secret-expires", expiryOf(secret));
    } catch (error) {
      if (!signal.aborted) log.problem(error);
    }
    await sleep(sweepEveryMs, undefined, { signal }).catch(() => undefined);
  }
}

function expiryOf({ workspace, server, name, expires }: ExpiringSecret) {
  const state = expires <= Date.now() ? "expired" : "expires soon";
  return { level: "warning", workspace, server, secret: name, expires: new Date(expires).toISOString(), state };
}

/** Writes entries to the log of the service. */
interface Log {
  event(event: string, fields: Readonly<Record<string, string | number>>): void;
  /** Logs an error. Only errors of Keyward are logged with their message, because other messages may contain a secret's value. */
  problem(error: unknown, requestId?: string): void;
  /** Logs a failed call, with details about its server that only an operator may see. */
  call(problem: GatewayProblem, callId: string | undefined): void;
}

/** Writes the log to stderr, as one line of JSON for each entry. */
function logTo({ output }: Context): Log {
  const write = (entry: object) => output.notice(JSON.stringify({ time: new Date().toISOString(), ...entry }));
  const log: Log = {
    call: (error, callId) => {
      const { cause, code, message, hint, operatorDetail: detail } = error;
      // For an error of the store or of the gateway itself, the cause is more precise than the error that the caller got.
      const isOwn = cause instanceof KeywardError || cause instanceof SecretsError || code === "INTERNAL_ERROR";
      if (isOwn && cause !== undefined) log.problem(cause, callId);
      else write({ event: "problem", level: "error", code, message, hint, detail, requestId: callId });
    },
    event: (event, fields) => write({ event, ...fields }),
    problem: (error, requestId) => {
      const { code, message, hint } = errorResult(error);
      const request = requestId === undefined ? {} : { requestId };
      const place = code === "UNEXPECTED" ? { stack: framesOf(error) } : {};
      write({ event: "problem", level: "error", code, message, hint, ...request, ...place });
    },
  };
  return log;
}

/** Returns the first frames of an error's stack. Unlike the message of another library's error, a frame contains no value. */
function framesOf(error: unknown): readonly string[] {
  const lines = error instanceof Error ? (error.stack ?? "").split("\n") : [];
  return lines
    .filter((line) => /^ {4}at /.test(line))
    .slice(0, maxFrames)
    .map((line) => line.trim());
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
