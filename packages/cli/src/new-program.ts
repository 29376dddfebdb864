import { Command } from "commander";
import type { Surroundings } from "./context.ts";
import type { OutputOptions } from "./terminal/output.ts";
import { version } from "./version.ts";

/** Returns the program of an executable of this package, without commands. Its mistakes are thrown as `CommanderError`. */
export function newProgram({ name, stdout, stderr }: Surroundings, description: string): Command {
  return new Command(name)
    .description(description)
    .version(version, "--version", "print the version")
    .configureOutput({
      writeOut: (text) => stdout.write(text),
      writeErr: (text) => stderr.write(withoutSources(text)),
    })
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError(`(${name} --help lists the commands)`)
    .exitOverride();
}

/** Declares the options of a program about its output. */
export function outputOptions(program: Command): Command {
  return program
    .option("--json", "print the result as one line of JSON")
    .option("--quiet", "print no progress")
    .option("--no-color", "print no colors (also with the environment variable NO_COLOR)");
}

/** Returns the options of a program about its output, as far as the command line was read. */
export function commonOutputOptions(program: Command): OutputOptions {
  return { json: false, quiet: false, ...program.opts<Partial<OutputOptions> & Pick<OutputOptions, "color">>() };
}

/** Replaces sources in a message of commander, which repeats arguments, because a source may contain a password. */
export function withoutSources(text: string): string {
  return text.replace(/\S*:\/\/\S*/g, "(a source)");
}
