import { type Command, Option } from "commander";
import type { CommonOptions, OpenContext, Surroundings } from "./context.ts";
import { collect } from "./declarations/arguments.ts";
import { declareChecks } from "./declarations/checks.ts";
import { declareClients } from "./declarations/clients.ts";
import { declareConfiguration } from "./declarations/configuration.ts";
import { declareGateway } from "./declarations/gateway.ts";
import { declareKeys } from "./declarations/keys.ts";
import { declareKv } from "./declarations/kv.ts";
import { declareMigration } from "./declarations/migration.ts";
import { refuseRepeats } from "./declarations/no-repeats.ts";
import { refuseTokens } from "./declarations/no-tokens.ts";
import { declareRecord } from "./declarations/record.ts";
import { declareRecords } from "./declarations/records.ts";
import { declareRotation } from "./declarations/rotation.ts";
import { declareService } from "./declarations/service.ts";
import { commonOutputOptions, hideArguments, newProgram, outputOptions } from "./new-program.ts";

/** Returns the commands of `keyward`. A command loads what it needs when it runs, so that `--help` is printed at once. */
export function programFor(surroundings: Surroundings): Command {
  const program = newProgram(
    surroundings,
    "Make, rotate, retire and revoke the encryption keys of Keyward, and count and re-encrypt its records.",
  )
    .option(
      "--keys <source>",
      "the source of the keys, such as file:production.keyring (default: KEYWARD_KEYS, or the configuration)",
    )
    .addOption(
      new Option(
        "--store <name=source>",
        "a store, such as sessions=redis://localhost, or the name of a configured store; repeat it for each store (default: KEYWARD_STORE_<NAME>, or all stores of the configuration)",
      ).argParser(collect),
    )
    .addOption(
      new Option("--empty-store <name>", "the name of a store to which no record was ever written").argParser(collect),
    )
    .option("--scope <name>", "the scope of the records in the stores")
    .option("--env <name>", "the environment in the configuration file (default: KEYWARD_ENV)")
    .option("--yes", "answer every question with yes")
    .addHelpText(
      "after",
      "\nExamples:\n  keyward init     # writes a configuration and a keyring\n  keyward doctor   # checks the keys and the stores\n  keyward rotate   # replaces the key",
    );
  outputOptions(program);
  refuseTokens(program);
  const context: OpenContext = async () => {
    const { Context } = await import("./context.ts");
    return new Context(commonOptions(program), surroundings);
  };

  program.commandsGroup("Begin:");
  declareConfiguration(program, context);
  program.commandsGroup("Keys:");
  declareKeys(program, context, async () => {
    const { Output } = await import("./terminal/output.ts");
    return new Output(surroundings, commonOutputOptions(program));
  });
  program.commandsGroup("Rotations:");
  declareRotation(program, context);
  program.commandsGroup("Records:");
  declareRecords(program, context);
  declareMigration(program, context);
  declareRecord(program, context);
  program.commandsGroup("Checks:");
  declareChecks(program, context);
  program.commandsGroup("Secrets service:");
  const others = program.commands.length;
  declareGateway(program, context);
  declareService(program, context);
  declareClients(program, context);
  for (const command of program.commands.slice(others)) {
    refuseRepeats(command);
    // Any word may be a pasted credential, in the place of a name, a choice or a number.
    hideArguments(command);
  }
  program.commandsGroup("HTTP KV:");
  declareKv(
    program.command("kv").description("Serve a store over HTTP, and manage the API keys of its clients."),
    context,
  );
  program.commandsGroup("Help:");
  return program;
}

/** Returns the values that commander has read so far for the options that every command has. */
function commonOptions(program: Command): CommonOptions {
  const { store = [], emptyStore = [], yes = false, ...rest } = program.opts<Partial<CommonOptions>>();
  return { ...rest, store, emptyStore, yes, ...commonOutputOptions(program) };
}
