import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { readAmount } from "./arguments.ts";

/** Declares the commands about the records of the stores. */
export function declareRecords(program: Command, context: OpenContext): void {
  program
    .command("reencrypt")
    .description("Re-encrypt every record of every store under the primary key.")
    .option("--max-per-second <records>", "the most records that are re-encrypted per second", readAmount)
    .option("--dry-run", "count what would be re-encrypted, and change nothing")
    .action(
      async (options) => await (await import("../commands/records.ts")).reencryptStores(await context(), options),
    );
  program
    .command("census")
    .description("Count the records under each key, by store or by namespace.")
    .addOption(new Option("--by <place>", "what is counted apart").choices(["store", "namespace"]).default("store"))
    .action(async (options) => await (await import("../commands/records.ts")).showCensus(await context(), options));
}
