import type { Command } from "commander";

const name = "completion";

/**
 * Adds the commands for the completion of a shell. Loads the library for completion only if the command line asks for it.
 * Otherwise only adds the command to `--help`.
 */
export async function declareCompletion(program: Command, commandLine: readonly string[]): Promise<void> {
  const first = commandLine.find((word) => !word.startsWith("-")) ?? "";
  if (first === name || first === "complete") {
    const { default: addCompletion } = await import("@bomb.sh/tab/commander");
    addCompletion(program, { completionCommandName: name });
  } else {
    program
      .command(`${name} <shell>`)
      .description("Print the script that completes commands and flags in bash, zsh or fish.");
  }
}
