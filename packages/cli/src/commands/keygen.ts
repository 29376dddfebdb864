import { randomBytes } from "node:crypto";
import { CommandError } from "../exit-codes.ts";
import type { Output } from "../terminal/output.ts";

/** The options of `keyward keygen`. */
export interface KeygenOptions {
  readonly format: "base64" | "hex" | "keyring";
  readonly id?: string;
  readonly out?: string;
}

/** Makes a key, and prints it or writes it to a new file. */
export async function keygen(output: Output, { format, id, out }: KeygenOptions): Promise<void> {
  if (id !== undefined && format !== "keyring") {
    throw new CommandError("USAGE", "The flag --id needs the format keyring, because only a keyring contains key ids", {
      hint: "Add `--format keyring`, or omit `--id`.",
    });
  }
  const key = await newKey(format, id);
  if (out === undefined) output.result(key, { format, key, file: null });
  else {
    const { writeNewFile } = await import("../files/new-file.ts");
    await writeNewFile(out, `${key}\n`);
    output.result(`The key is in ${out}. Only its owner can read the file.`, { format, key: null, file: out });
  }
}

async function newKey(format: KeygenOptions["format"], id: string | undefined): Promise<string> {
  switch (format) {
    case "base64":
      return randomBytes(32).toString("base64");
    case "hex":
      return `hex:${randomBytes(32).toString("hex")}`;
    case "keyring": {
      // Loaded only here, because it takes longer than all the rest.
      const { exportKeyring, Keyring } = await import("@keyward/core");
      return exportKeyring(Keyring.generate(id));
    }
  }
}
