import { Command, Option } from "commander";
import type { CommonOptions, OpenContext, Surroundings } from "./context.ts";
import { collect } from "./declarations/arguments.ts";
import { declareChecks } from "./declarations/checks.ts";
import { declareKeys } from "./declarations/keys.ts";
import { declareMigration } from "./declarations/migration.ts";
import { declareRecords } from "./declarations/records.ts";
import { declareRotation } from "./declarations/rotation.ts";
import { version } from "./version.ts";

/** Returns the commands of `keyward`. A command loads what it needs when it runs, so that `--help` is printed at once. */
export function programFor(surroundings: Surroundings): Command {
  const program = new Command("keyward")
    .description("Keys and records of Keyward: make keys, see who uses them, rotate, count, retire and revoke.")
    .version(version, "--version", "print the version")
    .option("--keys <source>", "the source of the keys, such as file:production.keyring (default: KEYWARD_KEYS)")
    .addOption(
      new Option("--store <name=source>", "a store, such as sessions=redis://localhost; repeat it for each store")
        .argParser(collect)
        .default([], "KEYWARD_STORE_<NAME>"),
    )
    .addOption(
      new Option("--empty-store <name>", "the name of a store to which no record was ever written")
        .argParser(collect)
        .default([], "none"),
    )
    .option("--scope <name>", "the scope of the records in the stores")
    .option("--env <name>", "the environment in the configuration file (default: KEYWARD_ENV)")
    .option("--json", "print the result as one line of JSON", false)
    .option("--quiet", "print no progress", false)
    .option("--no-color", "print no colors (also with the environment variable NO_COLOR)")
    .option("--yes", "answer every question with yes", false)
    .configureOutput({
      writeOut: (text) => surroundings.stdout.write(text),
      writeErr: (text) => surroundings.stderr.write(withoutSources(text)),
    })
    .showHelpAfterError("(keyward --help lists the commands)")
    .exitOverride();
  const context: OpenContext = async () => {
    const { Context } = await import("./context.ts");
    return new Context(program.opts<CommonOptions>(), surroundings);
  };

  declareKeys(program, context);
  declareRotation(program, context);
  declareRecords(program, context);
  declareMigration(program, context);
  declareChecks(program, context);
  return program;
}

/** Replaces sources in a message of commander, which repeats arguments, because a source may contain a password. */
export function withoutSources(text: string): string {
  return text.replace(/\S*:\/\/\S*/g, "(a source)");
}
