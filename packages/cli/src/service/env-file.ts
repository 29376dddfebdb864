import { CommandError } from "../exit-codes.ts";

/** A variable of an `.env` file. */
export interface EnvVariable {
  readonly name: string;
  readonly value: string;
  /** The number of the line. Errors contain it instead of the name, which may be a part of a value with several lines. */
  readonly line: number;
}

const assignment = /^ *(?:export +)?([A-Za-z_][A-Za-z0-9_.-]*)=(.*)$/;
const withoutValue = /^ *(?:#.*)?$/;
/** What may follow a value: spaces, and a remark after at least one space. */
const restOfLine = /^(?: +(?:#.*)?)?$/;

/**
 * Reads the variables of an `.env` file. Programs disagree about many forms: one cuts a value at `#`, another replaces `$NAME`,
 * a third one keeps a backslash. This function reads only what shells and the usual parsers read alike, and refuses the whole
 * file for anything else. As the one exception, a name with `.` or `-` is accepted, although shells refuse it.
 *
 * @throws CommandError `USAGE` with the number of the line and the reason, without any text of the file.
 */
export function envVariables(text: string): readonly EnvVariable[] {
  const variables = new Map<string, EnvVariable>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (withoutValue.test(line) && !line.includes("\r")) continue;
    const variable = variableOf(line);
    const reason =
      typeof variable === "string"
        ? variable
        : variables.has(variable.name)
          ? "sets a variable a second time"
          : undefined;
    if (typeof variable === "string" || reason !== undefined) throw refused(index + 1, reason ?? "");
    variables.set(variable.name, { ...variable, line: index + 1 });
  }
  return [...variables.values()];
}

/** Returns the variable of a line, or why the line is refused. */
function variableOf(line: string): Omit<EnvVariable, "line"> | string {
  if (line.includes("\r")) return "has a carriage return inside";
  const [, name, given] = assignment.exec(line) ?? [];
  if (name === undefined || given === undefined)
    return "does not have the form NAME=value, without spaces around the =";
  const quote = given.at(0);
  if (quote === "`") return "has a value in backticks, which some programs keep";
  const isQuoted = quote === '"' || quote === "'";
  const end = isQuoted ? given.indexOf(quote, 1) : given.search(/ |$/);
  if (end === -1) return "has a quoted value that does not end on the line";
  const value = given.slice(isQuoted ? 1 : 0, end);
  // A quote after a backslash need not be the end of the value.
  if (quote !== "'" && /[\\$`]/.test(value)) return "has \\, $ or ` in a value without single quotes";
  if (!isQuoted && /["'#\t;&|<>(){}~]/.test(value))
    return "has a quote, a tab or one of #;&|<>(){}~ in a value without quotes";
  if (!restOfLine.test(given.slice(isQuoted ? end + 1 : end))) return "has more text after the value";
  if (/^=+$/.test(value)) return "has a value of = only, as the last line of a base64 text has";
  return value === "" ? "has an empty value" : { name, value };
}

function refused(line: number, reason: string): CommandError {
  return new CommandError("USAGE", `Line ${line} of the file ${reason}, so nothing was set`, {
    hint: "Programs read such a line in different ways. Write the value in single quotes, such as NAME='value'. Set a value that has a single quote with `keyward secrets set`.",
  });
}
