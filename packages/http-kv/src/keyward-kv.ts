#!/usr/bin/env node
import { existsSync } from "node:fs";
import { KeywardError } from "@keyward/core";
import { Command, InvalidArgumentError, Option } from "commander";
import { createApiKey } from "./api-keys.ts";
import { createKvHandler } from "./kv-handler.ts";
import { defaultLimits } from "./limits.ts";
import { listen } from "./node-server.ts";
import { type Scope, scopes } from "./protocol.ts";
import { openStore, storeKinds } from "./server-stores.ts";
import { changeTenants, fileTenants, readTenants } from "./tenants-file.ts";

const program = new Command("keyward-kv")
  .description("A key-value store over HTTP, for HttpStore of @keyward/http-kv and for the http driver of unstorage.")
  .showHelpAfterError();

program
  .command("serve")
  .description("Serve a store until SIGTERM or SIGINT, then finish the requests that have begun.")
  .requiredOption("--tenants <file>", "the API keys, which `keyward-kv tenants` writes")
  .addOption(new Option("--store <kind>", "where records lie").choices(storeKinds).default("sqlite"))
  .option("--file <path>", "with sqlite: the database", "keyward-kv.sqlite")
  .option("--redis-url <url>", "with redis: the server; KEYWARD_KV_REDIS_URL unless given")
  .option("--host <address>", "where to listen; TLS is the work of a proxy in front", "127.0.0.1")
  .option("--port <number>", "where to listen, 0 for any free port", readNumber, 8480)
  .option("--base-path <path>", "the path under which the server is mounted", "")
  .option("--requests-per-second <number>", "for each API key", readNumber, defaultLimits.requestsPerSecond)
  .option(
    "--max-bytes-under-way <number>",
    "what all requests may hold together",
    readNumber,
    defaultLimits.maxBytesUnderWay,
  )
  .option("--headers-timeout-ms <number>", "how long the headers of a request may take", readNumber, 5_000)
  .option(
    "--body-timeout-ms <number>",
    "how long the body of a request may take",
    readNumber,
    defaultLimits.bodyTimeoutMs,
  )
  .option("--idle-timeout-ms <number>", "how long a connection may be silent", readNumber, 30_000)
  .option("--drain-ms <number>", "how long requests that have begun may take after SIGTERM", readNumber, 10_000)
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
  });

tenants
  .command("list")
  .description("List the API keys: id, tenant, namespace, scopes, and whether they are good.")
  .requiredOption("--tenants <file>", "the file")
  .action(async (options: { tenants: string }) => {
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
  readonly file: string;
  readonly redisUrl?: string;
  readonly host: string;
  readonly port: number;
  readonly basePath: string;
  readonly requestsPerSecond: number;
  readonly maxBytesUnderWay: number;
  readonly headersTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly drainMs: number;
}

async function serve(options: ServeOptions): Promise<void> {
  const { tenants: file, requestsPerSecond, maxBytesUnderWay, bodyTimeoutMs, headersTimeoutMs, basePath } = options;
  const redisUrl = options.redisUrl ?? process.env["KEYWARD_KV_REDIS_URL"];
  // A file that is broken is better found now than by the first client.
  await readTenants(file);
  if (!existsSync(file)) {
    console.error(`${file} is not there, so nobody is let in yet: keyward-kv tenants add makes it, with an API key`);
  }
  const store = await openStore(options.store, options.file, redisUrl);
  const handler = createKvHandler({
    store,
    tenants: fileTenants(file),
    basePath,
    limits: { requestsPerSecond, maxBytesUnderWay, bodyTimeoutMs },
    log: (entry) => console.error(JSON.stringify({ time: new Date().toISOString(), ...entry })),
  });
  const server = await listen(handler, { ...options, requestTimeoutMs: headersTimeoutMs + bodyTimeoutMs });
  console.log(`keyward-kv listens on ${server.url}${basePath}`);
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
  await server.close();
  await store.disconnect?.();
}

function readNumber(text: string): number {
  if (/^\d+(?:\.\d+)?$/.test(text)) return Number(text);
  throw new InvalidArgumentError("It is not a number.");
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
