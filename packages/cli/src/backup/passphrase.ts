import { fileLocation, KeywardError } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";
import type { Operator } from "../terminal/operator.ts";

const leastCharacters = 12;

/**
 * Returns the passphrase for a new backup: the first line of a file, or what the operator types twice.
 *
 * @param file the path of the file; `undefined` to ask the operator.
 * @throws CommandError `USAGE` if the passphrase has fewer than 12 characters, if the operator typed two different
 * passphrases, or if there is neither a file nor a terminal; the errors of {@link existingPassphrase}.
 */
export async function newPassphrase(operator: Operator, file: string | undefined): Promise<string> {
  const passphrase =
    file === undefined ? await ask(operator, "New passphrase for the backup:") : await firstLineOf(file);
  const { length } = [...passphrase];
  if (length < leastCharacters) {
    throw new CommandError(
      "USAGE",
      `The passphrase has only ${length} characters. An attacker who has the backup can guess a passphrase with fewer than ${leastCharacters}`,
      { hint: "Choose a longer passphrase, such as five random words, and keep it apart from the backup." },
    );
  }
  if (file === undefined && (await ask(operator, "The passphrase once more:")) !== passphrase) {
    throw new CommandError("USAGE", "The two passphrases differ, so nothing was written", {
      hint: "Run the command again, and type the same passphrase twice.",
    });
  }
  return passphrase;
}

/**
 * Returns the passphrase of an existing backup: the first line of a file, or what the operator types.
 *
 * @throws CommandError `USAGE` if there is neither a file nor a terminal, or if the file does not exist or has no text;
 * KeywardError `PROVIDER_UNAVAILABLE`, `VALUE_INVALID` if the file cannot be read.
 */
export async function existingPassphrase(operator: Operator, file: string | undefined): Promise<string> {
  return file === undefined ? await ask(operator, "Passphrase of the backup:") : await firstLineOf(file);
}

async function ask(operator: Operator, question: string): Promise<string> {
  if (operator.isPresent) return await operator.askSecret(question);
  throw new CommandError("USAGE", "A passphrase is needed, and there is no terminal to ask for it", {
    hint: "Write the passphrase into the first line of a file that only you can read, and pass `--passphrase-file <file>`.",
  });
}

async function firstLineOf(file: string): Promise<string> {
  const text = await readPassphraseFile(file);
  const [line = ""] = (text ?? "").split(/\r?\n/, 1);
  if (text === undefined || line === "") {
    const problem = text === undefined ? "does not exist" : "has no text in its first line";
    throw new CommandError("USAGE", `The file ${file} with the passphrase ${problem}`, {
      hint: "Pass the path of a file whose first line is the passphrase.",
    });
  }
  // Other bytes than UTF-8 were replaced when the file was read, so passphrases that differ could look the same.
  if (!line.includes("\uFFFD")) return line;
  throw new CommandError("USAGE", `The file ${file} with the passphrase is not UTF-8`, {
    hint: "Save the file as UTF-8.",
  });
}

async function readPassphraseFile(file: string): Promise<string | undefined> {
  try {
    return await fileLocation(file, { shownAs: `The file ${file} with the passphrase` }).read();
  } catch (error) {
    if (!(error instanceof KeywardError && error.code === "KEYRING_INVALID")) throw error;
    throw new KeywardError("VALUE_INVALID", error.message, {
      hint: "Pass the path of a regular file whose first line is the passphrase.",
    });
  }
}
