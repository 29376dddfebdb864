import { randomBytes } from "node:crypto";
import { open, unlink } from "node:fs/promises";
import { exportKeyring, Keyring, KeywardError, systemCode } from "@keyward/core";
import type { Context } from "../context.ts";

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
  if (out === undefined) output.result(key, { key });
  else {
    await writeNewFile(out, `${key}\n`);
    output.result(`The key is in ${out}. Only its owner can read the file.`, { file: out });
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

async function writeNewFile(path: string, text: string): Promise<void> {
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } catch (error) {
      // A reader would use an empty or cut file as a key.
      await unlink(path);
      throw error;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (systemCode(error) === "EEXIST") {
      throw new KeywardError("KEYRING_CONFLICT", `The file ${path} exists already, so nothing was written`, {
        hint: "Choose another path. Do not replace a key that records were encrypted with.",
      });
    }
    throw new KeywardError("PROVIDER_UNAVAILABLE", `The file ${path} cannot be written (${systemCode(error)})`, {
      hint: "Check that the folder exists, that you may write to it, and that its disk is not full.",
    });
  }
}
