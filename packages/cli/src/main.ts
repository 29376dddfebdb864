import { CommanderError } from "commander";
import type { Surroundings } from "./context.ts";
import { declareCompletion } from "./declarations/completion.ts";
import { CommandError, exitCodeOf, exitCodes, Interrupted, ProblemsPrinted } from "./exit-codes.ts";
import { CommandLineError, commonOutputOptions, mayHaveSecrets, nameOwnHelp } from "./new-program.ts";
import { Results } from "./terminal/results.ts";

/** Loads the commands of one executable, without loading the commands of the other one. */
const programs = {
  keyward: async (surroundings: Surroundings) => (await import("./program.ts")).programFor(surroundings),
  "keyward-kv": async (surroundings: Surroundings) => (await import("./kv-program.ts")).kvProgramFor(surroundings),
} as const;

const usualStopMs = 10_000;
/** A second signal within this time after the first is ignored, because a parent process may have passed on the same signal. */
const sameSignalMs = 500;

/**
 * Runs the command line of this process, and ends the process with its exit code.
 *
 * @param name the name of the executable.
 */
export async function runProcess(name: keyof typeof programs): Promise<void> {
  // Without a listener, this signal opens the debugger of Node.js, through which every local user could read the keys.
  process.on("SIGUSR1", () => {});
  const fail = (problem: string) => {
    process.stderr.write(`${name}: ${problem}\n`, () => process.exit(exitCodes.failed));
  };
  // A configuration is code of others. Neither its errors, which may contain a secret, nor their stacks are printed.
  const background = "An error was thrown in the background, by the configuration or by a package that it uses.";
  process.on("unhandledRejection", () => fail(background));
  process.on("uncaughtException", () => fail(background));
  process.once("beforeExit", () =>
    fail("The configuration never finishes loading, because it waits for a promise that never settles."),
  );
  const exitCode = await main(name, process.argv.slice(2));
  // An open connection of a configuration would keep the process from ending.
  for (const stream of [process.stdout, process.stderr]) await new Promise((resolve) => stream.write("", resolve));
  process.exit(exitCode);
}

/** Runs a command line of an executable of this package, and returns its exit code. */
async function main(name: keyof typeof programs, commandLine: readonly string[]): Promise<number> {
  const stop = new AbortController();
  const { stdin, stdout, stderr, env } = process;
  const results = new Results(stdout);
  let stopWithinMs = usualStopMs;
  const allowStop = (withinMs: number) => {
    stopWithinMs = withinMs;
  };
  const surroundings: Surroundings = { name, stdin, stdout, results, stderr, env, signal: stop.signal, allowStop };
  let stoppedAtMs = 0;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) {
        // npx, timeout and other parents pass on a signal that a terminal or supervisor has sent to this process too.
        if (performance.now() - stoppedAtMs < sameSignalMs) return undefined;
        return process.exit(exitCodes.interrupted);
      }
      stoppedAtMs = performance.now();
      if (!isViewing(commandLine)) {
        stderr.write(`${name}: stopping after the calls in progress. Press Ctrl-C again to stop at once.\n`);
      }
      stop.abort(new Interrupted());
      // A call to a backend that does not answer ends only at its own timeout, or never.
      setTimeout(() => process.exit(exitCodes.interrupted), stopWithinMs).unref();
      return undefined;
    });
  }
  let outputFailed = false;
  const onStreamError = (error: NodeJS.ErrnoException) => {
    // A reader that closes its end of a pipe early, such as `head`, is not an error. A full disk is one.
    if (error.code !== "EPIPE") outputFailed = true;
  };
  for (const stream of [stdout, stderr]) stream.on("error", onStreamError);
  const program = await programs[name](surroundings);
  try {
    await declareCompletion(program, commandLine);
    nameOwnHelp(program);
    await program.parseAsync([...commandLine], { from: "user" });
    await new Promise<void>((resolve) => stdout.write("", () => resolve()));
    if (outputFailed) stderr.write(`${name}: the output cannot be written. Is the disk full?\n`);
    return outputFailed ? exitCodes.failed : exitCodes.done;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return exitCodes.done;
      // The command line was not read to its end, so the options of the program may lack the flag.
      if (!flagsOf(commandLine).includes("--json")) return exitCodes.usage;
      const { Output } = await import("./terminal/output.ts");
      // Commander has written the message for people to stderr.
      new Output(surroundings, { ...commonOutputOptions(program), json: true }).error(usageError(name, error));
      return exitCodes.usage;
    }
    if (error instanceof ProblemsPrinted) return error.exitCode;
    const { Output } = await import("./terminal/output.ts");
    const output = new Output(surroundings, commonOutputOptions(program));
    if (error instanceof Interrupted || stop.signal.aborted) {
      const hint = ` To continue, run the same command again${shownCommand(name, commandLine)}`;
      output.notice(`${name}: stopped.${isViewing(commandLine) ? "" : hint}`);
      output.errorLine(
        new CommandError("INTERRUPTED", "The command was stopped", {
          hint: "To continue, run the same command again.",
        }),
      );
      return exitCodes.interrupted;
    }
    output.error(error);
    return exitCodeOf(error);
  }
}

/** Returns the error for a mistake in the command line that commander has found. */
function usageError(name: string, error: CommanderError): CommandError {
  const isMissing = error.code === "commander.help";
  const message = error.message.replace(/^error: /, "").replaceAll("\n", " ");
  return new CommandError("USAGE", isMissing ? "The command line names no command" : message, {
    hint: error instanceof CommandLineError ? error.hint : `\`${name} --help\` lists the commands.`,
  });
}

/** Returns the arguments before `--`, because those after it are not flags. */
function flagsOf(commandLine: readonly string[]): readonly string[] {
  const dashes = commandLine.indexOf("--");
  return dashes === -1 ? commandLine : commandLine.slice(0, dashes);
}

/**
 * Returns whether the command only prints what happens, until it is stopped. Stopping such a command leaves nothing
 * unfinished.
 */
function isViewing(commandLine: readonly string[]): boolean {
  const flags = flagsOf(commandLine);
  return flags.includes("--watch") || (flags.includes("calls") && flags.includes("tail"));
}

// Only these commands resume a job when they are run again. The command lines of others may contain the key of a record.
const continuing = ["rotate", "rollback", "revoke", "retire", "reencrypt", "migrate", "census"];

/**
 * Returns the end of a sentence: the command line to copy into a shell. Returns "." if the command line may contain a secret,
 * or * if the command resumes no job.
 */
function shownCommand(name: string, commandLine: readonly string[]): string {
  const isHidden = commandLine.includes("record") || mayHaveSecrets(commandLine);
  if (isHidden || !commandLine.some((word) => continuing.includes(word))) return ".";
  const words = commandLine.map((word) => {
    // A password in a source is left out.
    const shown = word.replace(/(:\/\/[^/?#]*:).*@/, "$1…@");
    return /^[\w@%+=:,./-]+$/.test(shown) ? shown : `'${shown.replaceAll("'", "'\\''")}'`;
  });
  return `:\n  ${[name, ...words].join(" ")}`;
}
