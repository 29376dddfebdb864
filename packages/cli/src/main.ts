import { CommanderError } from "commander";
import type { CommonOptions, Surroundings } from "./context.ts";
import { DoctorFoundProblems, exitCodes, waitingCodes } from "./exit-codes.ts";
import { programFor, withoutSources } from "./program.ts";

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
