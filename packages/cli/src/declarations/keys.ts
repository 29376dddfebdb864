import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";

/** Declares the commands that make keys, and that show and change the keyring. */
export function declareKeys(program: Command, context: OpenContext): void {
  program
    .command("keygen")
    .description("Make a key, and print it or write it to a new file.")
    .addOption(
      new Option("--format <format>", "the form of the key").choices(["base64", "hex", "keyring"]).default("base64"),
    )
    .option("--id <id>", "with the format keyring: the id of the key (default: derived from the key)")
    .option("--out <file>", "write to this new file, which only its owner can read")
    .addHelpText(
      "after",
      "\nExamples:\n  keyward keygen\n  keyward keygen --format keyring --id 2026-12 --out production.keyring",
    )
    .action(async (options) => await (await import("../commands/keygen.ts")).keygen(await context(), options));

  const keyring = program.command("keyring").description("Show or create the keyring, or enable a key.");
  keyring
    .command("show")
    .description("Show the ids, the statuses and the ages of the keys, and never a key.")
    .action(async () => await (await import("../commands/keyring.ts")).showKeyring(await context()));
  keyring
    .command("create")
    .description("Save the first keyring, with one new key.")
    .option("--id <id>", "the id of the key (default: the date)")
    .option("--stores <names>", "the names of the stores that use the keyring, separated by commas")
    .action(async (options) => await (await import("../commands/keyring.ts")).createKeyring(await context(), options));

  keyring
    .command("enable <id>")
    .description("Enable a disabled key, if records still need it. Not for a compromised key.")
    .action(async (id: string) => await (await import("../commands/keyring.ts")).enableKey(await context(), id));
}
