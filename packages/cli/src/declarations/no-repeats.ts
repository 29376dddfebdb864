import type { Command } from "commander";
import { collect } from "./arguments.ts";

/**
 * Makes a command and its subcommands refuse a command line with the same flag twice if the flag has a value. Commander would
 * use the last value, so that `--role member --role admin` would make an admin. Flags that collect their values may be
 * repeated.
 */
export function refuseRepeats(command: Command): void {
  for (const option of command.options) {
    const hasValue = option.required || option.optional;
    if (!hasValue || option.parseArg === collect) continue;
    let isGiven = false;
    command.on(`option:${option.name()}`, () => {
      if (isGiven) command.error(`error: option '${option.flags}' is given more than once. Pass the flag once.`);
      isGiven = true;
    });
  }
  for (const each of command.commands) refuseRepeats(each);
}
