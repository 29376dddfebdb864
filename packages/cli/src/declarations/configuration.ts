import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";

/** Declares the commands that set up a folder and a shell for `keyward`. */
export function declareConfiguration(program: Command, context: OpenContext): void {
  program
    .command("init")
    .description("Write a configuration file and a first keyring into this folder. Asks, or takes --keys and --store.")
    .addOption(
      new Option(
        "--format <format>",
        "the form of the configuration file (default: ts if this folder has the package keyward, otherwise json)",
      ).choices(["ts", "json"]),
    )
    .option("--id <id>", "the id of the first key (default: the date)")
    .addHelpText(
      "after",
      "\nExamples:\n  keyward init\n  keyward init --keys file:production.keyring --store sessions=redis://localhost",
    )
    .action(async (options) => await (await import("../commands/init.ts")).init(await context(), options));
}
