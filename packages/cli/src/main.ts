import { CommanderError } from "commander";
import type { Surroundings } from "./context.ts";
import { declareCompletion } from "./declarations/completion.ts";
import { CommandError, exitCodeOf, exitCodes, Interrupted, ProblemsPrinted } from "./exit-codes.ts";
import { commonOutputOptions, withoutArguments } from "./new-program.ts";
import { Results } from "./terminal/results.ts";

/** Loads the commands of an executable, and not those of the other one. */
const programs = {
  keyward: async (surroundings: Surroundings) => (await import("./program.ts")).programFor(surroundings),
  "keyward-kv": async (surroundings: Surroundings) => (await import("./kv-program.ts")).kvProgramFor(surroundings),
} as const;

/**
 * Runs a command line of an executable of this package, and returns its exit code.
 *
 * @param name the name of the executable.
 * @param commandLine the arguments after the name of the program.
 */
export async function main(name: keyof typeof programs, commandLine: readonly string[]): Promise<number> {
  const stop = new AbortController();
  const { stdin, stdout, stderr, env } = process;
  const results = new Results(stdout);
  const surroundings: Surroundings = { name, stdin, stdout, results, stderr, env, signal: stop.signal };
  const signals = ["SIGINT", "SIGTERM"] as const;
  const interrupt = () => {
    for (const signal of signals) process.off(signal, interrupt);
    // A call to a backend that does not answer ends only at its own timeout. A second signal ends the process at once.
    surroundings.stderr.write(`${name}: stopping after the calls in progress. Press Ctrl-C again to stop at once.\n`);
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
  const program = await programs[name](surroundings);
  try {
    await declareCompletion(program, commandLine);
    await program.parseAsync([...commandLine], { from: "user" });
    await new Promise<void>((resolve) => process.stdout.write("", () => resolve()));
    if (outputFailed) surroundings.stderr.write(`${name}: the output cannot be written. Is the disk full?\n`);
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
    if (error instanceof ProblemsPrinted) return exitCodes.failed;
    const { Output } = await import("./terminal/output.ts");
    const output = new Output(surroundings, commonOutputOptions(program));
    if (error instanceof Interrupted || stop.signal.aborted) {
      const shown = shownCommand(name, commandLine);
      output.notice(`${name}: stopped. To continue, run the same command again:\n  ${shown}`);
      output.errorLine(
        new CommandError("INTERRUPTED", "The command was stopped", {
          hint: "To continue, run the same command again.",
        }),
      );
      return exitCodes.interrupted;
    }
    output.error(error);
    return exitCodeOf(error);
  } finally {
    for (const signal of signals) process.off(signal, interrupt);
  }
}

/** Returns the error for a mistake in the command line that commander has found. */
function usageError(name: string, error: CommanderError): CommandError {
  const isMissing = error.code === "commander.help";
  const message = withoutArguments(error.message)
    .replace(/^error: /, "")
    .replaceAll("\n", " ");
  return new CommandError("USAGE", isMissing ? "The command line names no command" : message, {
    hint: `\`${name} --help\` lists the commands, and \`${name} <command> --help\` lists the flags of a command.`,
  });
}

/** Returns the arguments before `--`, because those after it are no flags. */
function flagsOf(commandLine: readonly string[]): readonly string[] {
  const dashes = commandLine.indexOf("--");
  return dashes === -1 ? commandLine : commandLine.slice(0, dashes);
}

/** Returns a command line for people, who can copy it into a shell. A password in a source is left out. */
function shownCommand(name: string, commandLine: readonly string[]): string {
  const words = commandLine.map((word) => {
    const shown = word.replace(/(:\/\/[^/?#]*:)[^/?#]*@/, "$1…@");
    return /^[\w@%+=:,./-]+$/.test(shown) ? shown : `'${shown.replaceAll("'", "'\\''")}'`;
  });
  return [name, ...words].join(" ");
}
