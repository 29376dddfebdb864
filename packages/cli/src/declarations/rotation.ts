import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { readDuration } from "../terminal/durations.ts";
import { collect, readAmount } from "./arguments.ts";

const abandonUnreadable = [
  "--abandon-unreadable",
  "continue although some records cannot be decrypted; these records are then lost",
  false,
] as const;
const stepNames = ["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"] as const;

/** Declares the commands that take a key out of use. */
export function declareRotation(program: Command, context: OpenContext): void {
  const rotate = rotationOptions(
    program
      .command("rotate")
      .description("Replace the primary key, re-encrypt every record, and take the old key out of use.")
      .option("--new-key <id>", "the id of the new key (default: the date and six random characters)")
      .option("--resume", "only continue a running rotation, roll-back or revocation, and begin none")
      .option("--dry-run", "print the steps, and change nothing"),
  ).addHelpText(
    "after",
    "\nExamples:\n  keyward rotate --keys file:production.keyring --store sessions=sqlite:sessions.sqlite --new-key 2026-12\n  keyward rotate --dry-run",
  );
  rotate.action(async (options) => await (await import("../commands/rotate.ts")).rotate(await context(), options));
  program
    .command("status")
    .description("Show the running rotation, or the last one.")
    .action(async () => await (await import("../commands/rotate.ts")).showStatus(await context()));
  rotationOptions(
    program.command("rollback").description("Undo the running rotation: make the old key the primary again."),
  ).action(async (options) => await (await import("../commands/rotate.ts")).rollBack(await context(), options));
  rotationOptions(
    program
      .command("revoke <id>")
      .description("Take a compromised key out of use. Without --order, count its records, and ask for the order.")
      .option("--new-key <id>", "the id of the new key (default: the date and six random characters)")
      .addOption(
        new Option(
          "--order <order>",
          "reencrypt-first keeps the records under the key readable, forged ones too; disable-first makes all of them unreadable",
        ).choices(["reencrypt-first", "disable-first"]),
      ),
  ).action(
    async (id: string, options) => await (await import("../commands/rotate.ts")).revoke(await context(), id, options),
  );

  retireOptions(
    program
      .command("retire <id>")
      .description("Disable or remove a key, after checking that no record needs it.")
      .option("--remove", "remove the key, which must be disabled already"),
  ).action(
    async (id: string, options) => await (await import("../commands/records.ts")).retire(await context(), id, options),
  );
}

/** Adds the options of a command that disables or removes one key. */
export function retireOptions(command: Command): Command {
  return command.option(...abandonUnreadable);
}

function rotationOptions(command: Command): Command {
  const limited = command
    .addOption(new Option("--until <step>", "the last step of this run").choices(stepNames))
    .addOption(
      new Option(
        "--grace <duration>",
        "how long the old key stays disabled before it is removed (default: the configuration, or 1d)",
      ).argParser(readDuration),
    )
    .option("--max-per-second <records>", "the maximum number of records to re-encrypt per second", readAmount);
  return waitOptions(limited).option(...abandonUnreadable);
}

/** Adds the options of a command that waits for replicas. */
export function waitOptions(command: Command): Command {
  return command
    .option(
      "--unregistered <duration>",
      "how long processes that are not registered take to load changed keys; 0s if there are none",
      readDuration,
    )
    .option("--replicas-within <duration>", "how long to wait for the replicas in each step", readDuration)
    .addOption(
      new Option(
        "--ignore-replica <id>",
        "the id of a replica that no longer runs; repeat it for each replica",
      ).argParser(collect),
    );
}
