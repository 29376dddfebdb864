import { Readable } from "node:stream";
import { KeywardError } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";

/** The stream from which a command reads a value, such as `process.stdin`. */
export type InputStream = NodeJS.ReadableStream & { readonly isTTY?: boolean };

/**
 * Reads the whole of stdin as text.
 *
 * @param maxBytes the maximum number of bytes.
 * @throws CommandError `USAGE` if stdin is a terminal, which would show the value; KeywardError `VALUE_INVALID` if there
 * are more bytes than `maxBytes`, or if the bytes are not UTF-8; the reason of `signal` if it is aborted.
 */
export async function readInput(
  stdin: InputStream,
  { maxBytes, signal }: { readonly maxBytes: number; readonly signal: AbortSignal },
): Promise<string> {
  if (stdin.isTTY === true) {
    throw new CommandError(
      "USAGE",
      "The value is read from stdin, but stdin is a terminal, which would show the value",
      {
        hint: "Pass the value through a pipe, or from a file, such as `< value.json`.",
      },
    );
  }
  const chunks: Buffer[] = [];
  let bytes = 0;
  const { promise: stopped, reject } = Promise.withResolvers<never>();
  const stop = () => reject(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const iterator = stdin[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([iterator.next(), stopped]);
      if (next.done === true) break;
      const chunk = Buffer.from(next.value);
      bytes += chunk.length;
      if (bytes > maxBytes) throw tooLong(maxBytes);
      chunks.push(chunk);
    }
  } finally {
    signal.removeEventListener("abort", stop);
    // An open pipe would keep the process alive.
    if (stdin instanceof Readable) stdin.destroy();
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new KeywardError("VALUE_INVALID", "The value on stdin is not UTF-8 text", {
      hint: "Encode the value as text, for example as base64.",
    });
  }
}

function tooLong(maxBytes: number): KeywardError {
  const message = `The value on stdin has more than ${maxBytes / 2 ** 20} MiB, so nothing was written`;
  return new KeywardError("VALUE_INVALID", message, {
    hint: "Write a smaller value. An application can write larger values than this command.",
  });
}
