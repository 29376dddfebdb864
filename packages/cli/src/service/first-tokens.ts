import { randomBytes } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Initialization } from "@keyward/secrets";
import type { Context } from "../context.ts";
import { writeNewFile } from "../files/new-file.ts";

/** The tokens of an initialization as `--json` prints them. */
export interface FirstTokens {
  /** The texts of the tokens; `null` if they are in a file. */
  readonly tokens: { readonly operator: string; readonly admin: string } | null;
  /** The path of the file that has the tokens; `null` if they are printed. */
  readonly tokensFile: string | null;
  readonly text: string;
}

/** Removes the file of tokens that are refused, because another process has initialized the service at the same time. */
export async function removeRefusedTokens(first: FirstTokens | undefined): Promise<void> {
  if (first !== undefined && first.tokensFile !== null) await rm(first.tokensFile, { force: true });
}

/**
 * Gives the first tokens to the operator: prints them on a terminal, or writes them to a new file, which is on the disk when
 * the function returns. The stdout of a container is a log that many read, so without a terminal the tokens go to a file that
 * only its owner can read.
 *
 * @param options.printsTokens true if the operator wants the tokens on stdout anyway.
 * @param options.beside the path of a file in whose folder the tokens are written.
 */
export async function firstTokens(
  { output }: Pick<Context, "output">,
  { operator, admin, workspace }: Initialization,
  { printsTokens, beside }: { readonly printsTokens: boolean; readonly beside: string },
): Promise<FirstTokens> {
  const lines = [
    `operator  ${operator.token}  (ends after 24 hours)`,
    `admin     ${admin.token}  (of the workspace ${workspace.name})`,
  ];
  if (printsTokens || (output.isShown && !output.isJson)) {
    const tokens = { operator: operator.token, admin: admin.token };
    return { tokens, tokensFile: null, text: ["These tokens are printed once:", ...lines].join("\n") };
  }
  const folder = dirname(beside);
  // The tokens of an initialization that was stopped are refused.
  for (const name of (await readdir(folder)).filter((found) => found.startsWith("first-tokens-"))) {
    await rm(join(folder, name), { force: true });
  }
  const path = join(folder, `first-tokens-${randomBytes(3).toString("hex")}.txt`);
  await writeNewFile(path, `${lines.join("\n")}\n`);
  const text = `The tokens of the operator and of the admin are in ${path}, which only you can read. Delete the file after you have used them.`;
  return { tokens: null, tokensFile: path, text };
}
