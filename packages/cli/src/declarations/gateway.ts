import { type Command, InvalidArgumentError, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { amountBetween, collect, readTime } from "./arguments.ts";

/** Declares the commands that set up and run the secrets service on this machine. */
export function declareGateway(program: Command, context: OpenContext): void {
  const gateway = program.command("gateway").description("Set up and run the secrets service on this machine.");
  gateway
    .command("init")
    .description("Set up the service: a configuration, the folder .keyward, a workspace, and the first tokens.")
    .option("--workspace <name>", "the name of the first workspace", "main")
    .option("--print-tokens", "print the tokens even if stdout is not a terminal", false)
    .addHelpText(
      "after",
      "\nIf the folder has a configuration with the setting `gateway`, the service is set up in the stores that it names.",
    )
    .action(
      async (options) => await (await import("../commands/gateway/init.ts")).initGateway(await context(), options),
    );
  gateway
    .command("start")
    .description("Run the service until SIGTERM or SIGINT: the gateway for calls, and the admin API.")
    .option(
      "--host <address>",
      "the address for calls, with plain HTTP; for TLS, put a proxy in front of the service (default: 127.0.0.1)",
    )
    .option("--port <number>", "the port for calls; 0 for any free port", amountBetween(0, 65_535), 8_480)
    .option("--public-url <url>", "the URL at which callers reach the gateway, such as https://keyward.example.com")
    .option("--admin-host <address>", "the address for the admin API, with plain HTTP (default: 127.0.0.1)")
    .option("--admin-port <number>", "the port for the admin API; 0 for any free port", amountBetween(0, 65_535), 8_490)
    .option("--admin-url <url>", "the URL at which admins reach the admin API")
    .addOption(
      new Option(
        "--allow-address <address>",
        "an address that is not public, and that servers may have, such as 127.0.0.1:3000 or 10.0.0.0/8:443; main/github=10.0.0.7:443 for one server; repeat it for each address",
      ).argParser(collect),
    )
    .addOption(
      new Option(
        "--trust-proxy <cidr>",
        "a block of proxy addresses whose X-Forwarded-For is trusted, such as 10.0.0.0/8; repeat it for each block",
      ).argParser(collect),
    )
    .option(
      "--revoke-tokens-before <time>",
      "after a restore from a backup: revoke each token that was created before a time, such as 2030-01-31T12:00:00Z",
      readMoment,
    )
    .option(
      "--clock-was-ahead",
      "replace a time of an earlier revocation that a wrong clock has set in the future",
      false,
    )
    .option("--workspace <name>", "the name of the first workspace, if the store is empty", "main")
    .option("--new-audit", "begin a new audit, after the audit of the service was lost", false)
    .action(
      async (options) => await (await import("../commands/gateway/start.ts")).startGateway(await context(), options),
    );
  gateway
    .command("doctor")
    .description("Check the configuration, the files, the store, the keys, the audit and the service. Changes nothing.")
    .option("--url <url>", "the URL of the service, to check that it answers")
    .action(
      async (options) => await (await import("../commands/gateway/doctor.ts")).gatewayDoctor(await context(), options),
    );

  program
    .command("login")
    .description("Store the URL of a service and a token, for the commands below. Asks, or reads the token from stdin.")
    .option("--url <url>", "the URL of the service, such as https://keyward.example.com")
    .addOption(new Option("--token [token]").hideHelp())
    .allowExcessArguments()
    .addHelpText("after", "\nThe environment variables KEYWARD_URL and KEYWARD_TOKEN are used instead of a login.")
    .action(
      async (options, login: Command) =>
        await (await import("../commands/service/login.ts")).login(await context(), login.args, options),
    );
  program
    .command("logout")
    .description("Remove the login. The token stays valid.")
    .action(async () => await (await import("../commands/service/login.ts")).logout(await context()));
}

/** Reads a time in RFC 3339 as milliseconds since the epoch. */
function readMoment(text: string): number {
  const time = Date.parse(readTime(text));
  if (time <= Date.now()) return time;
  throw new InvalidArgumentError("The time has not come yet.");
}
