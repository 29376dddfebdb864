import { type Command, Option } from "commander";
import type { CommonOptions, OpenContext, Surroundings } from "./context.ts";
import { collect } from "./declarations/arguments.ts";
import { declareChecks } from "./declarations/checks.ts";
import { declareKeys } from "./declarations/keys.ts";
import { declareKv } from "./declarations/kv.ts";
import { declareRecords } from "./declarations/records.ts";
import { declareRotation } from "./declarations/rotation.ts";
import { newProgram, outputOptions } from "./new-program.ts";

/** Returns the commands of `keyward`. A command loads what it needs when it runs, so that `--help` is printed at once. */
export function programFor(surroundings: Surroundings): Command {
  const program = newProgram(
    surroundings,
    "Keys and records of Keyward: make keys, see who uses them, rotate, count, retire and revoke.",
  )
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
    .option("--yes", "answer every question with yes", false);
  outputOptions(program);
  const context: OpenContext = async () => {
    const { Context } = await import("./context.ts");
    return new Context(program.opts<CommonOptions>(), surroundings);
  };

  declareKeys(program, context);
  declareRotation(program, context);
  declareRecords(program, context);
  declareChecks(program, context);
  declareKv(
    program.command("kv").description("Serve a store over HTTP, and manage the API keys of its clients."),
    context,
  );
  return program;
}
