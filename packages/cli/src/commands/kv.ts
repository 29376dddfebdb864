import { existsSync } from "node:fs";
import { KeywardError, packageNotLoaded } from "@keyward/core";
import type { ApiKeyEntry, KvLimits, NewApiKey } from "@keyward/http-kv";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";
import { table } from "../terminal/output.ts";

/** The parts of a {@link Context} that the commands of an HTTP KV server use. */
export type KvContext = Pick<Context, "output" | "signal" | "env">;

/** The option that every command of API keys has. */
export interface TenantsOptions {
  /** The path of the file of API keys. */
  readonly tenants: string;
}

type ServedLimits = Pick<KvLimits, "requestsPerSecond" | "maxValueBytes" | "maxBytesInMemory" | "bodyTimeoutMs">;

/** The options of `keyward kv serve`. The server has a default for each one that is missing, except for the store. */
export interface ServeOptions extends TenantsOptions, Partial<ServedLimits> {
  /** The sources that flags `--store` name. */
  readonly store?: readonly string[];
  readonly host?: string;
  readonly port?: number;
  readonly basePath?: string;
  readonly headersTimeoutMs?: number;
  readonly idleTimeoutMs?: number;
  readonly drainMs?: number;
}

const defaultStore = "sqlite:keyward-kv.sqlite";

/**
 * Serves a store over HTTP until the operator stops the command, and then finishes the requests in progress.
 *
 * @throws CommandError `USAGE` for a store that a server cannot keep its records in; the errors of `storeFrom` and
 * `startKvServer`.
 */
export async function serve({ output, signal, env }: KvContext, options: ServeOptions): Promise<void> {
  const { fileTenants, startKvServer } = await loadHttpKv();
  const tenants = fileTenants(options.tenants);
  // An invalid file should fail the start, and not the first request.
  await tenants.list();
  if (!existsSync(options.tenants)) {
    output.notice(
      `The file of API keys, ${options.tenants}, does not exist, so every request is refused. To create it, run \`keyward-kv tenants add\`.`,
    );
  }
  const source = sourceOf(options, env);
  const { storeFrom } = await import("@keyward/stores-from");
  const store = await storeFrom(source, { env });
  try {
    const server = await startKvServer({
      store,
      tenants,
      log: logTo((lines) => output.notice(lines)),
      limits: given(options, ["requestsPerSecond", "maxValueBytes", "maxBytesInMemory", "bodyTimeoutMs"]),
      ...given(options, ["host", "port", "basePath", "headersTimeoutMs", "idleTimeoutMs", "drainMs"]),
    });
    output.result(`keyward-kv listens on ${server.url}`, { url: server.url });
    await aborted(signal);
    await server.close();
  } finally {
    await store.disconnect();
  }
}

/** Makes an API key, prints it, and adds its entry to the file. */
export async function addApiKey(
  { output }: KvContext,
  { tenants, tenant, ...optional }: TenantsOptions & NewApiKey,
): Promise<void> {
  const { fileTenants } = await loadHttpKv();
  const wanted = { tenant, ...given(optional, ["namespace", "scopes", "expires"]) };
  const { apiKey, entry } = await fileTenants(tenants).add(wanted);
  output.result(apiKey, { apiKey, apiKeyId: entry.id });
}

/** Revokes the API key with an id. */
export async function revokeApiKey({ output }: KvContext, id: string, { tenants }: TenantsOptions): Promise<void> {
  const { fileTenants } = await loadHttpKv();
  await fileTenants(tenants).revoke(id);
  output.result(`${id} is revoked`, { apiKeyId: id });
}

/** Lists the API keys of a file. */
export async function listApiKeys({ output }: KvContext, { tenants }: TenantsOptions): Promise<void> {
  if (!existsSync(tenants)) {
    throw new KeywardError("STORE_UNAVAILABLE", `The file of API keys, ${tenants}, does not exist`, {
      hint: "Check the path. To create the file, run `keyward-kv tenants add`.",
    });
  }
  const { fileTenants } = await loadHttpKv();
  const entries = await fileTenants(tenants).list();
  const rows = entries.map(({ id, tenant, namespace = "", scopes, expires, revoked }) => [
    id,
    tenant,
    namespace === "" ? "-" : namespace,
    scopes.join(","),
    revoked === undefined ? validity(expires) : `revoked ${timeOf(revoked)}`,
  ]);
  output.result(table([["id", "tenant", "namespace", "scopes", "state"], ...rows]), {
    apiKeys: entries.map(apiKeyResult),
  });
}

/** An API key as `--json` prints it, without its hash. Times are in milliseconds since the epoch. */
interface ApiKeyResult {
  readonly id: string;
  readonly tenant: string;
  readonly namespace: string;
  readonly scopes: ApiKeyEntry["scopes"];
  readonly state: "valid" | "expired" | "revoked";
  readonly expiresAtMs: number | null;
  readonly revokedAtMs: number | null;
}

function apiKeyResult({ id, tenant, namespace = "", scopes, expires, revoked }: ApiKeyEntry): ApiKeyResult {
  const isExpired = expires !== undefined && expires <= Date.now();
  const state = revoked !== undefined ? "revoked" : isExpired ? "expired" : "valid";
  return { id, tenant, namespace, scopes, state, expiresAtMs: expires ?? null, revokedAtMs: revoked ?? null };
}

/** Loads the package only for these commands, so that all others start without it. */
async function loadHttpKv(): Promise<typeof import("@keyward/http-kv")> {
  return await import("@keyward/http-kv").catch(packageNotLoaded("@keyward/http-kv", "This command", "STORE_INVALID"));
}

/** Returns the source of the store, which flags or the environment variable name. */
function sourceOf({ store: flags = [] }: ServeOptions, env: KvContext["env"]): string {
  const [source = env["KEYWARD_KV_STORE"] || defaultStore, ...others] = flags;
  if (others.length > 0) {
    throw new CommandError("USAGE", "A server has only one store, but the flag --store was passed more than once", {
      hint: "Keep one flag --store. Start a server for each store.",
    });
  }
  if (/^\s*https?:/.test(source)) {
    throw new CommandError(
      "USAGE",
      "A server cannot keep its records on another HTTP KV server, because the limits of that server would refuse the largest records",
      {
        hint: "Name a store of another kind. Or let the clients use the other server, with an API key for each tenant.",
      },
    );
  }
  return source;
}

/** Returns those of the named options that are set. */
function given<Options extends object, Name extends keyof Options>(
  options: Options,
  names: readonly Name[],
): Partial<Pick<Options, Name>> {
  const found: Partial<Pick<Options, Name>> = {};
  for (const name of names) if (options[name] !== undefined) found[name] = options[name];
  return found;
}

/** Returns a function that logs entries as JSON. The lines of one turn of the event loop are written together. */
function logTo(write: (lines: string) => void): (entry: object) => void {
  let lines: string[] = [];
  return (entry) => {
    if (lines.length === 0) {
      setImmediate(() => {
        write(lines.join("\n"));
        lines = [];
      });
    }
    lines.push(JSON.stringify({ time: new Date().toISOString(), ...entry }));
  };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

function validity(expires: number | undefined): string {
  if (expires === undefined) return "good";
  return `${expires <= Date.now() ? "ended" : "good until"} ${timeOf(expires)}`;
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}
