import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { CommonOptions, Context, Surroundings } from "./context.ts";
import { readDuration } from "./durations.ts";
import { DoctorFoundProblems, exitCodes, waitingCodes } from "./exit-codes.ts";
import { version } from "./version.ts";

const stepNames = ["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"] as const;

/**
 * Runs a command line of `keyward`, and returns its exit code.
 *
 * @param commandLine the arguments after the name of the program.
 */
export async function main(commandLine: readonly string[], given: Partial<Surroundings> = {}): Promise<number> {
  const stop = new AbortController();
  const surroundings: Surroundings = {
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    signal: stop.signal,
    ...given,
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  const interrupt = () => {
    for (const signal of signals) process.off(signal, interrupt);
    // A call to a backend that does not answer ends only at its own timeout. A second signal ends the process at once.
    surroundings.stderr.write("keyward: stopping after the current call. Press Ctrl-C again to stop at once.\n");
    stop.abort(new Interrupted());
  };
  for (const signal of signals) process.on(signal, interrupt);
  let outputFailed = false;
  const onStreamError = (error: NodeJS.ErrnoException) => {
    // A reader that closes its end of a pipe early, such as `head`, is no error. A full disk is one.
    if (error.code === "EPIPE") return;
    outputFailed = true;
    process.exitCode = exitCodes.failed;
  };
  for (const stream of [process.stdout, process.stderr]) stream.on("error", onStreamError);
  const program = programFor(surroundings);
  try {
    await program.parseAsync([...commandLine], { from: "user" });
    await new Promise<void>((resolve) => process.stdout.write("", () => resolve()));
    if (outputFailed) surroundings.stderr.write("keyward: the output cannot be written. Is the disk full?\n");
    return outputFailed ? exitCodes.failed : exitCodes.done;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return exitCodes.done;
      const usage = { error: { code: "USAGE", message: withoutSources(error.message) } };
      if (commandLine.includes("--json")) surroundings.stdout.write(`${JSON.stringify(usage)}\n`);
      return exitCodes.usage;
    }
    if (error instanceof DoctorFoundProblems) return exitCodes.failed;
    const { json = false, quiet = false } = program.opts<Partial<CommonOptions>>();
    const { Output } = await import("./output.ts");
    const output = new Output(surroundings, { json, quiet });
    if (error instanceof Interrupted || stop.signal.aborted) {
      output.notice("keyward: stopped. To continue, run the same command again.");
      return exitCodes.interrupted;
    }
    output.error(error);
    const isWaiting = error instanceof Error && "code" in error && waitingCodes.includes(String(error.code));
    return isWaiting ? exitCodes.waiting : exitCodes.failed;
  } finally {
    for (const signal of signals) process.off(signal, interrupt);
  }
}

class Interrupted extends Error {}

/** Replaces sources in a message of commander, which repeats arguments, because a source may contain a password. */
function withoutSources(text: string): string {
  return text.replace(/\S*:\/\/\S*/g, "(a source)");
}

function programFor(surroundings: Surroundings): Command {
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
    .option("--json", "print the result as one line of JSON", false)
    .option("--quiet", "print no progress", false)
    .configureOutput({
      writeOut: (text) => surroundings.stdout.write(text),
      writeErr: (text) => surroundings.stderr.write(withoutSources(text)),
    })
    .showHelpAfterError("(keyward --help lists the commands)")
    .exitOverride();
  // Loaded only by a command that runs, so that --help is printed at once.
  const context = async (): Promise<Context> => {
    const { Context } = await import("./context.ts");
    return new Context(program.opts<CommonOptions>(), surroundings);
  };

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
    .action(async (options) => await (await import("./commands/keygen.ts")).keygen(await context(), options));

  const keyring = program.command("keyring").description("Show or create the keyring, or enable a key.");
  keyring
    .command("show")
    .description("Show the ids, the statuses and the ages of the keys, and never a key.")
    .action(async () => await (await import("./commands/keyring.ts")).showKeyring(await context()));
  keyring
    .command("create")
    .description("Save the first keyring, with one new key.")
    .option("--id <id>", "the id of the key (default: the date)")
    .option("--stores <names>", "the names of the stores that use the keyring, separated by commas")
    .action(async (options) => await (await import("./commands/keyring.ts")).createKeyring(await context(), options));

  keyring
    .command("enable <id>")
    .description("Enable a disabled key, if records still need it. Not for a compromised key.")
    .action(async (id: string) => await (await import("./commands/keyring.ts")).enableKey(await context(), id));

  const rotate = rotationOptions(
    program
      .command("rotate")
      .description("Replace the primary key, re-encrypt every record, and take the old key out of use.")
      .option("--new-key <id>", "the id of the new key (default: the date and six random characters)")
      .option("--dry-run", "print the steps, and change nothing", false),
  ).addHelpText(
    "after",
    "\nExamples:\n  keyward rotate --keys file:production.keyring --store sessions=sqlite:sessions.sqlite --new-key 2026-12\n  keyward rotate --dry-run",
  );
  rotate.action(async (options) => await (await import("./commands/rotate.ts")).rotate(await context(), options));
  program
    .command("status")
    .description("Show the running rotation, or the last one.")
    .action(async () => await (await import("./commands/rotate.ts")).showStatus(await context()));
  rotationOptions(
    program.command("rollback").description("Undo the running rotation: make the old key the primary again."),
  ).action(async (options) => await (await import("./commands/rotate.ts")).rollBack(await context(), options));
  rotationOptions(
    program
      .command("revoke <id>")
      .description("Take a compromised key out of use. Without --order, only show what each order costs.")
      .option("--new-key <id>", "the id of the new key (default: the date and six random characters)")
      .addOption(
        new Option("--order <order>", "keep forged records, or make all records unreadable").choices([
          "reencrypt-first",
          "disable-first",
        ]),
      ),
  ).action(
    async (id: string, options) => await (await import("./commands/rotate.ts")).revoke(await context(), id, options),
  );

  program
    .command("reencrypt")
    .description("Re-encrypt every record of every store under the primary key.")
    .option("--max-per-second <records>", "the most records that are re-encrypted per second", readAmount)
    .option("--dry-run", "count what would be re-encrypted, and change nothing", false)
    .action(async (options) => await (await import("./commands/records.ts")).reencryptStores(await context(), options));
  program
    .command("census")
    .description("Count the records under each key, by store or by namespace.")
    .addOption(new Option("--by <place>", "what is counted apart").choices(["store", "namespace"]).default("store"))
    .action(async (options) => await (await import("./commands/records.ts")).showCensus(await context(), options));
  program
    .command("retire <id>")
    .description("Disable or remove a key, after checking that no record needs it.")
    .option("--remove", "remove the key, which must be disabled already", false)
    .option("--abandon-unreadable", "go on although records cannot be decrypted, which are then lost", false)
    .action(
      async (id: string, options) => await (await import("./commands/records.ts")).retire(await context(), id, options),
    );
  program
    .command("replicas")
    .description("List the processes that are registered in the stores, with the keys that they hold.")
    .action(async () => await (await import("./commands/records.ts")).showReplicas(await context()));
  program
    .command("doctor")
    .description("Check the keys, and each store with the keys, and say what to do. Changes nothing.")
    .action(async () => await (await import("./commands/doctor.ts")).doctor(await context()));
  return program;
}

function rotationOptions(command: Command): Command {
  return command
    .addOption(new Option("--until <step>", "the last step of this run").choices(stepNames))
    .addOption(
      new Option("--grace <duration>", "how long the old key stays disabled before it is removed")
        .argParser(readDuration)
        .default(86_400_000, "1d"),
    )
    .option("--max-per-second <records>", "the most records that are re-encrypted per second", readAmount)
    .option(
      "--unregistered <duration>",
      "how long processes that are not registered take to load changed keys; 0s if there are none",
      readDuration,
    )
    .option("--replicas-within <duration>", "how long to wait for the replicas in each step", readDuration)
    .addOption(
      new Option("--ignore-replica <id>", "the id of a replica that has ended; repeat it for each replica")
        .argParser(collect)
        .default([], "none"),
    )
    .option("--abandon-unreadable", "go on although records cannot be decrypted, which are then lost", false);
}

function collect(text: string, texts: readonly string[]): readonly string[] {
  return [...texts, text];
}

function readAmount(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("The value is not a positive integer.");
}
