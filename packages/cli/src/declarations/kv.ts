import { type Command, InvalidArgumentError, Option } from "commander";
import type { KvContext, ServeOptions } from "../commands/kv.ts";
import { amountBetween, collect } from "./arguments.ts";

const scopes = ["read", "write", "list"] as const;

/** The longest duration of an option, in milliseconds: about 12 days. */
const longestMs = 2 ** 30;
/** The largest value of a limit, in bytes or requests. */
const largestLimit = 2 ** 40;

/** Declares the commands for an HTTP KV server and its API keys. `keyward kv` and `keyward-kv` have the same commands. */
export function declareKv(parent: Command, context: () => Promise<KvContext>): void {
  const milliseconds = amountBetween(1, longestMs);
  const limit = amountBetween(1, largestLimit);
  parent
    .command("serve")
    .description("Serve a store until SIGTERM or SIGINT, then finish the requests in progress.")
    .requiredOption("--tenants <file>", "the file of API keys, which the command `tenants` writes")
    .addOption(
      new Option(
        "--store <source>",
        "where the records are stored, such as redis://localhost (default: KEYWARD_KV_STORE, or sqlite:keyward-kv.sqlite)",
      ).argParser(collect),
    )
    .option(
      "--host <address>",
      "the address to listen on, with plain HTTP; for TLS, put a proxy in front of the server (default: 127.0.0.1)",
    )
    .option("--port <number>", "the port to listen on; 0 for any free port (default: 8480)", readPort)
    .option("--base-path <path>", "the path at which the server is mounted (default: the root)")
    .option(
      "--requests-per-second <number>",
      "maximum number of requests per second with one API key (default: 1000)",
      limit,
    )
    .option("--max-value-bytes <number>", "maximum length of a value (default: 2 MiB)", limit)
    .option(
      "--max-bytes-in-memory <number>",
      "maximum memory of all requests together (default: a quarter of the heap, but at least 64 and at most 256 MiB)",
      limit,
    )
    .option(
      "--headers-timeout-ms <number>",
      "how long the headers of a request may take to arrive (default: 5 seconds)",
      milliseconds,
    )
    .option(
      "--body-timeout-ms <number>",
      "how long the body of a request may take to arrive (default: 10 seconds)",
      milliseconds,
    )
    .option(
      "--idle-timeout-ms <number>",
      "how long a connection may transfer nothing (default: 30 seconds)",
      milliseconds,
    )
    .option(
      "--drain-ms <number>",
      "how long the requests in progress may take after SIGTERM (default: 10 seconds)",
      amountBetween(0, longestMs),
    )
    .action(async (_, serve: Command) => {
      // The program `keyward` has a flag --store too, and takes it from every place of the command line.
      const options = serve.optsWithGlobals<ServeOptions>();
      await (await import("../commands/kv.ts")).serve(await context(), options);
    });

  const tenants = parent
    .command("tenants")
    .description("Manage the API keys in a file. Running servers use each change at once.");
  tenants
    .command("add")
    .description("Make an API key and print it. It cannot be printed again, because the file has only its hash.")
    .requiredOption("--tenants <file>", "the file of API keys")
    .requiredOption("--tenant <name>", "the tenant whose records the API key gives access to")
    .option("--namespace <name>", "the tenant's namespace on the server that the API key gives access to")
    .option(
      "--scopes <list>",
      `the scopes of the API key, some of ${scopes.join(",")} (default: all of them)`,
      readScopes,
    )
    .option("--expires <time>", "when the API key expires, such as 2030-01-31 or 2030-01-31T12:00:00Z", readTime)
    .action(async (options) => await (await import("../commands/kv.ts")).addApiKey(await context(), options));
  tenants
    .command("revoke <id>")
    .description("Revoke the API key with this id, which is the part between the underscores of the API key.")
    .requiredOption("--tenants <file>", "the file of API keys")
    .action(
      async (id: string, options) =>
        await (await import("../commands/kv.ts")).revokeApiKey(await context(), id, options),
    );
  tenants
    .command("list")
    .description("List the API keys: id, tenant, namespace, scopes, and whether the key is valid.")
    .requiredOption("--tenants <file>", "the file of API keys")
    .action(async (options) => await (await import("../commands/kv.ts")).listApiKeys(await context(), options));
}

function readPort(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw new InvalidArgumentError("A port is a number between 0 and 65535.");
}

function readScopes(text: string): readonly (typeof scopes)[number][] {
  return text.split(",").map((name) => {
    const scope = scopes.find((known) => known === name);
    if (scope === undefined) throw new InvalidArgumentError(`The scopes are ${scopes.join(", ")}.`);
    return scope;
  });
}

/** Reads a time in the future, and returns it in milliseconds since the epoch. */
function readTime(text: string): number {
  const time = Date.parse(text);
  if (Number.isNaN(time)) throw new InvalidArgumentError("The value is not a time.");
  if (time <= Date.now()) throw new InvalidArgumentError("The time has passed, so the API key would never be valid.");
  return time;
}
