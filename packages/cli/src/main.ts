import { CommanderError } from "commander";
import type { CommonOptions, Surroundings } from "./context.ts";
import { exitCodeOf, exitCodes, ProblemsPrinted } from "./exit-codes.ts";
import { programFor, withoutSources } from "./program.ts";
import { Interrupted } from "./terminal/operator.ts";

/**
 * Runs a command line of `keyward`, and returns its exit code.
 *
 * @param commandLine the arguments after the name of the program.
 */
export async function main(commandLine: readonly string[]): Promise<number> {
  const stop = new AbortController();
  const { stdin, stdout, stderr, env } = process;
  const surroundings: Surroundings = { stdin, stdout, stderr, env, signal: stop.signal };
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
    if (error instanceof ProblemsPrinted) return exitCodes.failed;
    const { Output } = await import("./terminal/output.ts");
    const output = new Output(surroundings, program.opts<CommonOptions>());
    if (error instanceof Interrupted || stop.signal.aborted) {
      output.notice("keyward: stopped. To continue, run the same command again.");
      return exitCodes.interrupted;
    }
    output.error(error);
    return exitCodeOf(error);
  } finally {
    for (const signal of signals) process.off(signal, interrupt);
  }
}
