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

/** What requests may hold unless it is given: no more than a quarter of the heap, but as much as two requests may have. */
const maxBytesInMemory = Math.max(
  leastBytesInMemory(defaultLimits),
  Math.min(defaultLimits.maxBytesInMemory, Math.floor(getHeapStatistics().heap_size_limit / 4)),
);

const program = new Command("keyward-kv")
  .description("A key-value store over HTTP, for HttpStore of @keyward/http-kv and for the http driver of unstorage.")
  .version(readVersion(), "--version", "print the release")
  .showHelpAfterError();

program
  .command("serve")
  .description("Serve a store until SIGTERM or SIGINT, then finish the requests that have begun.")
  .requiredOption("--tenants <file>", "the API keys, which `keyward-kv tenants` writes")
  .addOption(new Option("--store <kind>", "where records lie").choices(storeKinds).default("sqlite"))
  .option("--file <path>", 'with sqlite: the database; "keyward-kv.sqlite" unless given')
  .option("--redis-url <url>", "with redis: the server; KEYWARD_KV_REDIS_URL unless given")
  .option("--host <address>", "where to listen; TLS is the work of a proxy in front", "127.0.0.1")
  .option("--port <number>", "where to listen, 0 for any free port", readPort, 8480)
  .option("--base-path <path>", "the path under which the server is mounted", "")
  .option("--requests-per-second <number>", "for each API key", amount("requests"), defaultLimits.requestsPerSecond)
  .option("--max-value-bytes <number>", "how large a value may be", amount("bytes"), defaultLimits.maxValueBytes)
  .option(
    "--max-bytes-in-memory <number>",
    "what all requests may hold together; a quarter of the heap, within bounds, unless given",
    amount("bytes"),
    maxBytesInMemory,
  )
  .option("--headers-timeout-ms <number>", "how long the headers of a request may take", amount("milliseconds"), 5_000)
  .option(
    "--body-timeout-ms <number>",
    "how long the body of a request may take",
    amount("milliseconds"),
    defaultLimits.bodyTimeoutMs,
  )
  .option("--idle-timeout-ms <number>", "how long a connection may be silent", amount("milliseconds"), 30_000)
  .option(
    "--drain-ms <number>",
    "how long requests that have begun may take after SIGTERM",
    amount("milliseconds", 0),
    10_000,
  )
  .action(serve);

const tenants = program
  .command("tenants")
  .description("Manage the API keys in a file. Running servers follow at once.");

tenants
  .command("add")
  .description("Make an API key. It is printed once, and kept nowhere: the file has its hash.")
  .requiredOption("--tenants <file>", "the file")
  .requiredOption("--tenant <name>", "whose records the key opens")
  .option("--namespace <name>", "which part of them", "")
  .option("--scopes <list>", `some of ${scopes.join(",")}`, readScopes, [...scopes])
  .option("--expires <time>", "when the key ends, such as 2030-01-31 or 2030-01-31T12:00:00Z", readTime)
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
  .description("Revoke the API key with this id, which is its second part.")
  .requiredOption("--tenants <file>", "the file")
  .action(async (id: string, options: { tenants: string }) => {
    await changeTenants(options.tenants, (entries) => {
      if (!entries.some((entry) => entry.id === id)) {
        throw new KeywardError("VALUE_INVALID", "There is no API key with this id", {
          hint: "keyward-kv tenants list shows them.",
        });
      }
      return entries.map((entry) => (entry.id === id ? { ...entry, revoked: entry.revoked ?? Date.now() } : entry));
    });
    console.log(`${id} is revoked`);
  });

tenants
  .command("list")
  .description("List the API keys: id, tenant, namespace, scopes, and whether they are good.")
  .requiredOption("--tenants <file>", "the file")
  .action(async (options: { tenants: string }) => {
    if (!existsSync(options.tenants)) {
      throw new KeywardError("STORE_UNAVAILABLE", `${options.tenants} is not there`, {
        hint: "Name the file of API keys. keyward-kv tenants add makes one.",
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
  // A file that is broken is better found now than by the first client.
  await readTenants(file);
  if (!existsSync(file)) {
    console.error(`${file} is not there, so nobody is let in yet: keyward-kv tenants add makes it, with an API key`);
  }
  requireFitting(options);
  // A server whose log nobody reads any more goes on serving.
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

/** Writes the lines of one turn of the event loop together. */
function logLine(line: string): void {
  if (lines === "") setImmediate(flushLines);
  lines += `${line}\n`;
}

function flushLines(): void {
  process.stderr.write(lines);
  lines = "";
}

/** What another store would need is not taken without a word: records would be kept elsewhere than was meant. */
function requireFitting({ store, file, redisUrl }: ServeOptions): void {
  const [name, of] =
    file !== undefined && store !== "sqlite"
      ? ["--file", "sqlite"]
      : redisUrl !== undefined && store !== "redis"
        ? ["--redis-url", "redis"]
        : [];
  if (name === undefined || of === undefined) return;
  throw new KeywardError("STORE_INVALID", `${name} means nothing to --store ${store}`, {
    hint: `Leave it out, or pass --store ${of}.`,
  });
}

function readVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  return String(field(manifest, "version"));
}

function readPort(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw new InvalidArgumentError("It is not a number from 0 to 65535.");
}

function amount(unit: Unit, least = 1): (text: string) => number {
  return (text) => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError("It is not a number.");
    try {
      return requireAmount("It", Number(text), unit, { least });
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
  if (Number.isNaN(time)) throw new InvalidArgumentError("It is not a time.");
  if (time <= Date.now()) throw new InvalidArgumentError("It has passed: the API key would never be good.");
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
