import { randomBytes } from "node:crypto";
import { exportKeyring, Keyring, KeywardError } from "@keyward/core";
import type { Context } from "../context.ts";
import { writeNewFile } from "../files/new-file.ts";

/** The options of `keyward keygen`. */
export interface KeygenOptions {
  readonly format: "base64" | "hex" | "keyring";
  readonly id?: string;
  readonly out?: string;
}

/** Makes a key, and prints it or writes it to a new file. */
export async function keygen({ output }: Context, { format, id, out }: KeygenOptions): Promise<void> {
  if (id !== undefined && format !== "keyring") {
    throw new KeywardError("VALUE_INVALID", "Only a keyring has ids of keys", {
      hint: "Add `--format keyring`, or omit `--id`.",
    });
  }
  const key = newKey(format, id);
  if (out === undefined) output.result(key, { format, key, file: null });
  else {
    await writeNewFile(out, `${key}\n`);
    output.result(`The key is in ${out}. Only its owner can read the file.`, { format, key: null, file: out });
  }
}

function newKey(format: KeygenOptions["format"], id: string | undefined): string {
  switch (format) {
    case "base64":
      return randomBytes(32).toString("base64");
    case "hex":
      return `hex:${randomBytes(32).toString("hex")}`;
    case "keyring":
      return exportKeyring(Keyring.generate(id));
  }
}
