import type { Command } from "commander";
import { CommandError } from "../exit-codes.ts";
import { hasToken } from "../terminal/without-tokens.ts";

/**
 * Makes every command refuse a token in its command line. A command could print the token, or make a file with its name.
 * Only the value of a secret may be a token, because the server may be another gateway.
 */
export function refuseTokens(program: Command): void {
  program.hook("preAction", (_, command) => {
    const isSetting = command.name() === "set" && command.parent?.name() === "secrets";
    const words = [isSetting ? command.args.slice(0, 2) : command.args, command.opts(), program.opts()];
    if (!words.flatMap((some) => Object.values(some)).some((word) => hasToken(String(word)))) return;
    throw new CommandError("USAGE", "The command line has a token, so nothing was done", {
      hint: "Revoke the token, because others can see a command line: `keyward tokens revoke <id>`. The id is the part between the last two underscores. `keyward login` asks for a token, or reads it from stdin.",
    });
  });
}
