import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { systemCode } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";

const environmentPrefix = "env:";
const mostBytes = 65_536;

/**
 * Reads an old key or password, with which an application encrypted records before it used Keyward. One newline at the end is
 * removed.
 *
 * @param from `env:NAME` for an environment variable. Any other text is the path of a file.
 * @param format the name of the format, for the messages. The messages never contain `from`: an operator may have written
 * the key itself there.
 * @throws CommandError `USAGE` if the variable is not set, or if the file is not a regular file with text of at most
 * 64 KiB.
 */
export async function readOldKey(
  from: string,
  format: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<string> {
  const isVariable = from.startsWith(environmentPrefix);
  const text = isVariable ? env[from.slice(environmentPrefix.length)] : await readText(from, format);
  const key = text?.replace(/\r?\n$/, "");
  if (key !== undefined && key !== "") return key;
  throw isVariable
    ? unusable(format, "The environment variable", "is not set, or is empty")
    : unusable(format, "The file", "is empty");
}

async function readText(path: string, format: string): Promise<string> {
  // Without O_NONBLOCK, opening a pipe without a writer never returns.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    throw unusable(format, "The file", `cannot be read (${systemCode(error)})`);
  });
  try {
    const status = await file.stat();
    if (!status.isFile() || status.size > mostBytes) {
      throw unusable(format, "The file", "is not a regular file of at most 64 KiB");
    }
    const bytes = await file.readFile();
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      throw unusable(format, "The file", "is not text in UTF-8");
    }
  } finally {
    await file.close();
  }
}

function unusable(format: string, source: string, problem: string): CommandError {
  return new CommandError("USAGE", `${source} with the old key of the format ${format} ${problem}`, {
    hint:
      `Write \`--from ${format}=<path>\` for a file, or \`--from ${format}=env:NAME\` for an environment variable. Do not ` +
      "write the key itself into the command line, because other users of the machine can see it there.",
  });
}
