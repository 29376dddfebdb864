import { type Command, InvalidArgumentError, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { readDuration } from "../terminal/durations.ts";
import { readAmount } from "./arguments.ts";

/** Declares the commands about the records of the stores. */
export function declareRecords(program: Command, context: OpenContext): void {
  jobOptions(
    program
      .command("reencrypt")
      .description("Re-encrypt every record of every store under the primary key.")
      .option("--dry-run", "count what would be re-encrypted, and change nothing"),
  ).action(async (options) => await (await import("../commands/records.ts")).reencryptStores(await context(), options));
  program
    .command("census")
    .description("Count the records under each key, by store or by namespace.")
    .addOption(
      new Option("--by <place>", "whether to count each store or each namespace separately")
        .choices(["store", "namespace"])
        .default("store"),
    )
    .option("--watch", "count again and again, until Ctrl-C", false)
    .addOption(
      new Option("--every <duration>", "with --watch: the pause between two counts")
        .argParser(readPause)
        .default(5_000, "5s"),
    )
    .action(async (options) => await (await import("../commands/records.ts")).showCensus(await context(), options));
}

/** Reads the pause between two counts, from 100 milliseconds to one day. A shorter pause would keep the store busy. */
function readPause(text: string): number {
  const durationMs = readDuration(text);
  if (durationMs >= 100 && durationMs <= 86_400_000) return durationMs;
  throw new InvalidArgumentError("The pause is between 100ms and 1d.");
}

/** Adds the options of a command that re-encrypts every record of its stores. */
export function jobOptions(command: Command): Command {
  return command
    .option("--max-per-second <records>", "the maximum number of records to re-encrypt per second", readAmount)
    .option(
      "--concurrency <pages>",
      "the maximum number of pages of records in progress at once (default: 4)",
      readAmount,
    )
    .option("--checkpoint <file>", "keep the progress in this file, so that a stopped command continues there");
}
