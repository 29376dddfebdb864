import { Command, CommanderError, Help } from "commander";
import type { Surroundings } from "./context.ts";
import type { OutputOptions } from "./terminal/output.ts";
import { withoutTokens } from "./terminal/without-tokens.ts";
import { version } from "./version.ts";

/** Returns commander's program for an executable, without commands. A wrong command line throws `CommanderError`. */
export function newProgram({ name, stdout, stderr }: Surroundings, description: string): Command {
  return new Command(name)
    .description(description)
    .version(version, "--version", "print the version")
    .configureOutput({
      writeOut: (text) => stdout.write(text),
      writeErr: (text) => stderr.write(text),
      outputError: (text, write) => write(withoutArguments(text)),
    })
    .configureHelp({
      showGlobalOptions: true,
      // The help omits this default, because every flag without a value is off by default.
      optionDescription: (option) => new Help().optionDescription(option).replace(" (default: false)", ""),
    })
    .exitOverride();
}

/** A mistake in a command line, in the words that people read. The message has no argument that may be a secret. */
export class CommandLineError extends CommanderError {
  /** The command whose help lists what may follow, such as `keyward tokens create --help`, and what the help lists. */
  readonly hint: string;

  constructor({ exitCode, code }: CommanderError, message: string, hint: string) {
    super(exitCode, code, message);
    this.hint = hint;
  }
}

/**
 * Makes each command of a program name its own help after a mistake in its command line, and throw `CommandLineError`. Call
 * it when all commands are declared, because a command inherits the settings of its parent when it is declared.
 */
export function nameOwnHelp(command: Command, path = command.name()): void {
  const help = `${path} --help`;
  const listed = command.commands.length > 0 ? "lists the commands" : "lists the arguments and flags";
  command.showHelpAfterError(`(${help} ${listed})`).exitOverride((error) => {
    let message = error.message;
    command.configureOutput().outputError?.(message, (shown) => {
      message = shown;
    });
    throw new CommandLineError(error, message, `\`${help}\` ${listed}.`);
  });
  for (const each of command.commands) nameOwnHelp(each, `${path} ${each.name()}`);
}

/** Declares the options of a program about its output. */
export function outputOptions(program: Command): Command {
  return program
    .option("--json", "print the result as one line of JSON")
    .option("--quiet", "print no progress")
    .option("--no-color", "print no colors (also with the environment variable NO_COLOR)");
}

/** Returns the values of the flags `--json`, `--quiet` and `--no-color` that commander has read so far. */
export function commonOutputOptions(program: Command): OutputOptions {
  return { json: false, quiet: false, ...program.opts<Partial<OutputOptions> & Pick<OutputOptions, "color">>() };
}

/** The commands whose arguments may be the value of a secret or a token. */
const secretCommands: readonly string[] = ["secrets", "tokens", "login"];

/** Returns whether a word of a command line may be a secret, so that no message may repeat the command line. */
export function mayHaveSecrets(commandLine: readonly string[]): boolean {
  return commandLine.some((word) => secretCommands.includes(word));
}

/** Makes a command and its subcommands print mistakes in a command line without any word of the command line. */
export function hideArguments(command: Command): void {
  command.configureOutput({
    outputError: (text, write) => write(withoutArguments(text, { hidesAll: true })),
  });
  for (const each of command.commands) hideArguments(each);
}

/**
 * Removes arguments from a message of commander, which repeats them: a source may contain a password, and the key of a
 * record may be a secret.
 *
 * @param options.hidesAll true if any word of the command line may be a secret, also an unknown flag.
 */
export function withoutArguments(text: string, { hidesAll = false }: { readonly hidesAll?: boolean } = {}): string {
  const shown = hidesAll
    ? text
        .replace(/unknown (option|command) '[\s\S]*'(?=\n|$)/, "unknown $1 (not shown)")
        .replace(/argument '[\s\S]*' is invalid/, "argument (not shown) is invalid")
    : text;
  return withoutTokens(shown)
    .replace(/(too many arguments.* but got \d+): [\s\S]*\.$/m, "$1.")
    .replace(/unknown (option|command) '(?!(?:--)?[a-z][a-z-]{0,29}')[\s\S]*?'(?=\n|$)/, "unknown $1 (not shown)")
    .replace(/\S*:\/\/\S*/g, "(a source)");
}
