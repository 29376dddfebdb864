import { Command } from "commander";
import type { Surroundings } from "./context.ts";
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
    .showHelpAfterError(`(${name} --help lists the commands)`)
    .exitOverride();
}

/** Declares the options of a program about its output. */
export function outputOptions(program: Command): Command {
  return program
    .option("--json", "print the result as one line of JSON", false)
    .option("--quiet", "print no progress", false)
    .option("--no-color", "print no colors (also with the environment variable NO_COLOR)");
}

/** Replaces sources in a message of commander, which repeats arguments, because a source may contain a password. */
export function withoutSources(text: string): string {
  return text.replace(/\S*:\/\/\S*/g, "(a source)");
}
