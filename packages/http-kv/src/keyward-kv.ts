#!/usr/bin/env node
import { existsSync, readFileSync } from "node:fs";
import { getHeapStatistics } from "node:v8";
import { KeywardError, requireAmount, type Unit } from "@keyward/core";
import { Command, InvalidArgumentError, Option } from "commander";
import { createApiKey } from "./api-keys.ts";
import { KvServer } from "./kv-server.ts";
import { defaultLimits, leastBytesInMemory } from "./limits.ts";
import { listen } from "./node-server.ts";
import { field, type Scope, scopes } from "./protocol.ts";
import { openStore, storeKinds } from "./server-stores.ts";
import { changeTenants, fileTenants, readTenants } from "./tenants-file.ts";

/** Default of --max-bytes-in-memory: a quarter of the heap, at most 256 MiB, but at least what two requests need. */
const maxBytesInMemory = Math.max(
  leastBytesInMemory(defaultLimits),
  Math.min(defaultLimits.maxBytesInMemory, Math.floor(getHeapStatistics().heap_size_limit / 4)),
);

const program = new Command("keyward-kv")
  .description("A key-value store over HTTP, for HttpStore of @keyward/http-kv and for the http driver of unstorage.")
  .version(readVersion(), "--version", "print the version")
  .showHelpAfterError();

program
  .command("serve")
  .description("Serve a store until SIGTERM or SIGINT, then finish the requests in progress.")
  .requiredOption("--tenants <file>", "the file of API keys, which `keyward-kv tenants` writes")
  .addOption(new Option("--store <kind>", "the kind of store for the records").choices(storeKinds).default("sqlite"))
  .option("--file <path>", 'with sqlite: the database file (default: "keyward-kv.sqlite")')
  .option("--redis-url <url>", "with redis: the URL of the Redis server (default: KEYWARD_KV_REDIS_URL)")
  .option(
    "--host <address>",
    "the address to listen on, with plain HTTP; for TLS, put a proxy in front of the server",
    "127.0.0.1",
  )
  .option("--port <number>", "the port to listen on; 0 for any free port", readPort, 8480)
  .option("--base-path <path>", "the path at which the server is mounted", "")
  .option(
    "--requests-per-second <number>",
    "maximum number of requests per second with one API key",
    amount("requests"),
    defaultLimits.requestsPerSecond,
  )
  .option("--max-value-bytes <number>", "maximum length of a value", amount("bytes"), defaultLimits.maxValueBytes)
  .option(
    "--max-bytes-in-memory <number>",
    "maximum memory of all requests together; by default a quarter of the heap, but at least 64 and at most 256 MiB",
    amount("bytes"),
    maxBytesInMemory,
  )
  .option(
    "--headers-timeout-ms <number>",
    "how long the headers of a request may take to arrive",
    amount("milliseconds"),
    5_000,
  )
  .option(
    "--body-timeout-ms <number>",
    "how long the body of a request may take to arrive",
    amount("milliseconds"),
    defaultLimits.bodyTimeoutMs,
  )
  .option("--idle-timeout-ms <number>", "how long a connection may transfer nothing", amount("milliseconds"), 30_000)
  .option(
    "--drain-ms <number>",
    "how long the requests in progress may take after SIGTERM",
    amount("milliseconds", 0),
    10_000,
  )
  .action(serve);

const tenants = program
  .command("tenants")
  .description("Manage the API keys in a file. Running servers use each change at once.");

tenants
  .command("add")
  .description("Make an API key and print it. The API key cannot be printed again, because the file has only its hash.")
  .requiredOption("--tenants <file>", "the file of API keys")
  .requiredOption("--tenant <name>", "the tenant whose records the key gives access to")
  .option("--namespace <name>", "the tenant's namespace on the server that the API key gives access to", "")
  .option("--scopes <list>", `the scopes of the API key, some of ${scopes.join(",")}`, readScopes, [...scopes])
  .option("--expires <time>", "when the API key expires, such as 2030-01-31 or 2030-01-31T12:00:00Z", readTime)
  .action(
    async (options: { tenants: string; tenant: string; namespace: string; scopes: Scope[]; expires?: number }) => {
      const { tenants: file, ...wanted } = options;
      const { apiKey, entry } = createApiKey(wanted);
      await changeTenants(file, (entries) => [...entries, entry]);
      console.log(apiKey);
    },
  );

tenants
  .command("revoke <id>")
  .description("Revoke the API key with this id, which is the part between the underscores of the API key.")
  .requiredOption("--tenants <file>", "the file of API keys")
  .action(async (id: string, options: { tenants: string }) => {
    await changeTenants(options.tenants, (entries) => {
      if (!entries.some((entry) => entry.id === id)) {
        throw new KeywardError("VALUE_INVALID", `The file has no API key with the id ${JSON.stringify(id)}`, {
          hint: "To see the ids of all API keys in the file, run `keyward-kv tenants list`.",
        });
      }
      return entries.map((entry) => (entry.id === id ? { ...entry, revoked: entry.revoked ?? Date.now() } : entry));
    });
    console.log(`${id} is revoked`);
  });

tenants
  .command("list")
  .description("List the API keys: id, tenant, namespace, scopes, and whether the key is valid.")
  .requiredOption("--tenants <file>", "the file of API keys")
  .action(async (options: { tenants: string }) => {
    if (!existsSync(options.tenants)) {
      throw new KeywardError("STORE_UNAVAILABLE", `The file of API keys, ${options.tenants}, does not exist`, {
        hint: "Check the path. To create the file, run `keyward-kv tenants add`.",
      });
    }
    for (const { id, tenant, namespace = "", scopes: allowed, expires, revoked } of await readTenants(
      options.tenants,
    )) {
      const ends =
        expires === undefined ? "good" : `${expires <= Date.now() ? "ended" : "good until"} ${timeOf(expires)}`;
      const state = revoked === undefined ? ends : `revoked ${timeOf(revoked)}`;
      console.log([id, tenant, namespace === "" ? "-" : namespace, allowed.join(","), state].join("\t"));
    }
  });

interface ServeOptions {
  readonly tenants: string;
  readonly store: string;
  readonly file?: string;
  readonly redisUrl?: string;
  readonly host: string;
  readonly port: number;
  readonly basePath: string;
  readonly requestsPerSecond: number;
  readonly maxValueBytes: number;
  readonly maxBytesInMemory: number;
  readonly headersTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly drainMs: number;
}

async function serve(options: ServeOptions): Promise<void> {
  const { tenants: file, headersTimeoutMs, basePath } = options;
  const { requestsPerSecond, maxValueBytes, maxBytesInMemory, bodyTimeoutMs } = options;
  const redisUrl = options.redisUrl ?? process.env["KEYWARD_KV_REDIS_URL"];
  // An invalid file should fail the start, and not the first request.
  await readTenants(file);
  if (!existsSync(file)) {
    console.error(
      `The file of API keys, ${file}, does not exist, so every request is refused. To create it, run \`keyward-kv tenants add\`.`,
    );
  }
  requireFitting(options);
  // The server keeps running if the process that reads its output ends.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
  const store = await openStore(options.store, options.file ?? "keyward-kv.sqlite", redisUrl);
  const kv = new KvServer({
    store,
    tenants: fileTenants(file),
    basePath,
    limits: { requestsPerSecond, maxValueBytes, maxBytesInMemory, bodyTimeoutMs },
    log: (entry) => logLine(JSON.stringify({ time: new Date().toISOString(), ...entry })),
  });
  const server = await listen(kv, { ...options, requestTimeoutMs: headersTimeoutMs + bodyTimeoutMs });
  console.log(`keyward-kv listens on ${server.url}${basePath}`);
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
  await server.close();
  await store.disconnect?.();
}

let lines = "";

/** Collects the log lines of one turn of the event loop, and writes them together. */
function logLine(line: string): void {
  if (lines === "") setImmediate(flushLines);
  lines += `${line}\n`;
}

function flushLines(): void {
  process.stderr.write(lines);
  lines = "";
}

/** Refuses an option of another kind of store, since the records would be stored elsewhere than the operator expects. */
function requireFitting({ store, file, redisUrl }: ServeOptions): void {
  const [name, of] =
    file !== undefined && store !== "sqlite"
      ? ["--file", "sqlite"]
      : redisUrl !== undefined && store !== "redis"
        ? ["--redis-url", "redis"]
        : [];
  if (name === undefined || of === undefined) return;
  throw new KeywardError("STORE_INVALID", `${name} cannot be combined with --store ${store}`, {
    hint: `To keep --store ${store}, omit ${name}. To use ${name}, pass \`--store ${of}\`.`,
  });
}

function readVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  return String(field(manifest, "version"));
}

function readPort(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw new InvalidArgumentError("A port is a number between 0 and 65535.");
}

function amount(unit: Unit, least = 1): (text: string) => number {
  return (text) => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError("The value is not an integer.");
    try {
      return requireAmount("The value", Number(text), unit, { least });
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? `${error.message}.` : "");
    }
  };
}

function readScopes(text: string): Scope[] {
  return text.split(",").map((name) => {
    const scope = scopes.find((known) => known === name);
    if (scope === undefined) throw new InvalidArgumentError(`The scopes are ${scopes.join(", ")}.`);
    return scope;
  });
}

function readTime(text: string): number {
  const time = Date.parse(text);
  if (Number.isNaN(time)) throw new InvalidArgumentError("The value is not a time.");
  if (time <= Date.now()) throw new InvalidArgumentError("The time has passed, so the API key would never be valid.");
  return time;
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof KeywardError)) throw error;
  console.error(`keyward-kv: ${error.message}\n${error.hint}`);
  process.exitCode = 1;
}
