import { randomBytes } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Initialization, type SecretsAdmin, SecretsError } from "@keyward/secrets";
import { writeNewFile } from "../files/new-file.ts";
import type { Output } from "../terminal/output.ts";

/** The tokens of an initialization as `--json` prints them. */
export interface FirstTokens {
  /** The texts of the tokens; `null` if they are in a file. */
  readonly tokens: { readonly operator: string; readonly admin: string } | null;
  /** The path of the file that has the tokens; `null` if they are printed. */
  readonly tokensFile: string | null;
  readonly text: string;
}

/** Options of {@link setUpService}. */
export interface SetUpOptions {
  /** The name of the first workspace. */
  readonly workspace: string;
  /** True if the operator wants the tokens on stdout although stdout is not a terminal. */
  readonly printsTokens: boolean;
  /** The path of the audit, in whose folder the tokens are written. */
  readonly beside: string;
  /** Prints the first tokens, or the path of their file. The service accepts the tokens only after `show` has resolved. */
  readonly show: (first: FirstTokens, initialization: Initialization) => Promise<void>;
}

// The name of a file whose writing was interrupted ends with `.unfinished`.
const endOfName = /^[0-9a-f]{6}\.txt(?:\.[0-9a-f]+\.unfinished)?$/;

/** Returns whether a file in the folder of an audit has the name of a file with the first tokens of the same service. */
export function isTokenFile(name: string, audit: string): boolean {
  const prefix = prefixOf(audit);
  return name.startsWith(prefix) && endOfName.test(name.slice(prefix.length));
}

/** Returns whether a file has the name that an earlier release gave to a file with the first tokens of any service. */
export function isFormerTokenFile(name: string): boolean {
  const prefix = "first-tokens-";
  return name.startsWith(prefix) && endOfName.test(name.slice(prefix.length));
}

/**
 * Sets up a secrets service in an empty store, and gives the first tokens to the operator. Prints the tokens on a terminal.
 * Without a terminal, writes them to a new file that only its owner can read, because the stdout of a container is a log that
 * many people read. The service is set up only after the tokens are printed, or after the file is on the disk.
 *
 * @param output where `show` prints.
 * @throws SecretsError `ALREADY_INITIALIZED` if another process sets the service up. The token file of this process is then
 * removed.
 */
export async function setUpService(
  output: Pick<Output, "isShown" | "isJson">,
  admin: SecretsAdmin,
  { workspace, printsTokens, beside, show }: SetUpOptions,
): Promise<void> {
  let file: string | null = null;
  const deliver = async (initialization: Initialization) => {
    const isPrinted = printsTokens || (output.isShown && !output.isJson);
    const first = isPrinted ? printed(initialization) : await written(beside, initialization);
    file = first.tokensFile;
    await show(first, initialization);
  };
  try {
    await admin.initialize({ workspace, deliver });
  } catch (error) {
    const isRefused = error instanceof SecretsError && error.code === "ALREADY_INITIALIZED";
    if (isRefused && file !== null) await rm(file, { force: true });
    throw error;
  }
  await removeTokenFiles(beside, file);
}

function linesOf({ operator, admin, workspace }: Initialization): readonly string[] {
  return [
    `operator  ${operator.token}  (ends after 24 hours)`,
    `admin     ${admin.token}  (of the workspace ${workspace.name})`,
  ];
}

function printed(initialization: Initialization): FirstTokens {
  const tokens = { operator: initialization.operator.token, admin: initialization.admin.token };
  return { tokens, tokensFile: null, text: ["These tokens are printed once:", ...linesOf(initialization)].join("\n") };
}

/**
 * Returns the prefix of the names of token files. It contains the name of the audit, because another service may have its *
 * audit in the same folder.
 */
function prefixOf(audit: string): string {
  return `first-tokens-${basename(audit)}-`;
}

async function written(audit: string, initialization: Initialization): Promise<FirstTokens> {
  const path = join(dirname(audit), `${prefixOf(audit)}${randomBytes(3).toString("hex")}.txt`);
  await writeNewFile(path, `${linesOf(initialization).join("\n")}\n`);
  const text = `The tokens of the operator and of the admin are in ${path}, which only you can read. Delete the file after you have used them.`;
  return { tokens: null, tokensFile: path, text };
}

/** Removes the token files of initializations that were not completed. The service refuses their tokens. */
async function removeTokenFiles(audit: string, valid: string | null): Promise<void> {
  for (const name of await readdir(dirname(audit))) {
    const path = join(dirname(audit), name);
    if (isTokenFile(name, audit) && path !== valid) await rm(path, { force: true });
  }
}
