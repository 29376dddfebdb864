import { constants, createReadStream, fstatSync, openSync } from "node:fs";
import { Socket } from "node:net";
import { addAbortSignal } from "node:stream";
import { systemCode } from "@keyward/core";
import { brokenValueRule, valueBytes } from "@keyward/secrets/fields";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** The source of a secret's value. Without a value and a file, the command asks for the value, or reads it from stdin. */
export interface ValueSource {
  readonly value?: string | undefined;
  readonly fromFile?: string | undefined;
}

const maxInputBytes = 1_048_576;

/**
 * Reads the value of a secret: from the command line, from a file, from stdin, or from a question that does not show the
 * answer. One newline at the end of a file or of stdin is cut, and reported. No message contains the value.
 *
 * @throws CommandError `USAGE` if there is no value, or more than one, or if the service would refuse the value.
 */
export async function readValue(context: Context, name: string, source: ValueSource): Promise<string> {
  const value = await given(context, name, source);
  if (value === "") throw new CommandError("USAGE", "The value is empty, so nothing was set", { hint: ways });
  const problem = problemWith(value);
  if (problem === undefined) return value;
  throw new CommandError("USAGE", `The value ${problem}, so nothing was set`, {
    hint: "Check that the input has the whole value and nothing else. A value has one line of 8 to 8,192 bytes. Encode a value of several lines, such as with base64.",
  });
}

/**
 * Returns why the service would refuse a value; `undefined` for a valid value. The service itself would describe a field of a
 * * request, which a person at the command line does not know.
 */
function problemWith(value: string): string | undefined {
  if (/[\r\n]/.test(value)) return "has more than one line";
  const bytes = Buffer.byteLength(value);
  if (bytes < valueBytes.least) return `has fewer than ${valueBytes.least} bytes`;
  if (bytes > valueBytes.most) return `is longer than ${valueBytes.most.toLocaleString("en")} bytes`;
  const rule = brokenValueRule(value);
  return rule === undefined ? undefined : `must be ${rule}`;
}

const ways =
  "Run the command on a terminal, which asks for the value. Or pass the value on stdin, or in a file: `--from-file <file>`.";

async function given(context: Context, name: string, { value, fromFile }: ValueSource): Promise<string> {
  const { output, operator } = context;
  if (value !== undefined) {
    if (fromFile !== undefined) {
      throw new CommandError("USAGE", "The command line has both a value and the flag --from-file", {
        hint: "Omit the value, because others can see the command line.",
      });
    }
    output.notice(
      "The value is in the command line: every user of this machine can see it while the command runs, and your shell " +
        "keeps it in its history. Next time, omit the value: the command then asks for it. Remove the line from the history.",
    );
    return value;
  }
  if (fromFile !== undefined)
    return withoutNewline(context, await textOfFile(fromFile, { signal: context.signal }), "of the file");
  if (operator.isPresent) return await operator.askSecret(`The value of ${name}:`);
  return withoutNewline(context, await context.input(maxInputBytes), "on stdin");
}

function withoutNewline({ output }: Context, text: string, where: string): string {
  const cut = text.replace(/\r?\n$/, "");
  if (cut !== text) output.notice(`The newline at the end of the value ${where} was cut.`);
  return cut;
}

/**
 * Reads a file as text.
 *
 * @param options.maxBytes the maximum size of the file. Default: 1 MiB.
 * @param options.signal stops the reading, even while a pipe sends nothing.
 * @throws CommandError `USAGE`.
 */
export async function textOfFile(
  path: string,
  { maxBytes = maxInputBytes, signal }: { readonly maxBytes?: number; readonly signal: AbortSignal },
): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    // Without O_NONBLOCK, a pipe without a writer would never open, and no signal would end the command.
    const fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    // A pipe of a shell, such as <(pass show token), is read without a thread, so that a signal ends the command.
    const isPipe = fstatSync(fd).isFIFO();
    const stream = isPipe ? new Socket({ fd, writable: false }) : createReadStream("", { fd, end: maxBytes });
    addAbortSignal(signal, stream);
    for await (const chunk of stream) {
      if (length > maxBytes) break;
      const bytes = Buffer.from(chunk);
      length += bytes.length;
      chunks.push(bytes);
    }
  } catch (error) {
    // No error repeats the path, because somebody may have passed the value itself as the path.
    if (systemCode(error) === "EISDIR") {
      throw new CommandError("USAGE", "The path is a folder, and not a file", {
        hint: "Pass the path of a file.",
      });
    }
    throw new CommandError("USAGE", `The file cannot be read (${systemCode(error)})`, {
      hint: "Check the path, and that you may read the file.",
    });
  }
  if (length > maxBytes) {
    throw new CommandError("USAGE", `The file has more than ${maxBytes / 2 ** 20} MiB`, { hint: "Check the path." });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new CommandError("USAGE", "The file is not UTF-8 text", {
      hint: "Encode the value as text, such as base64.",
    });
  }
}
