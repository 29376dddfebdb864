import { auditAnchor, exportAudit, verifyAudit } from "@keyward/secrets";
import type { Context } from "../../context.ts";
import { CommandError, ProblemsPrinted } from "../../exit-codes.ts";
import { writeNewFile } from "../../files/new-file.ts";
import { auditEntryResult } from "../../results/audit-entry-result.ts";
import { auditPath, gatewayConfig } from "../../service/local-service.ts";
import { textOfFile } from "../../service/secret-value.ts";
import { hasContent } from "../../service/used-stores.ts";
import { jsonOf } from "../../terminal/output.ts";

const maxAnchorBytes = 268_435_456;

// These commands work on the machine that has the keyring, without the admin API.

/** Verifies the audit, alone or against an anchor that was kept elsewhere. */
export async function verify(context: Context, { anchor }: { readonly anchor?: string }): Promise<void> {
  const file = await auditFile(context);
  const expected =
    anchor === undefined
      ? undefined
      : parsed(await textOfFile(anchor, { maxBytes: maxAnchorBytes, signal: context.signal }));
  const { ok, entries, chains, problems, problemCount, openChains } = await verifyAudit({
    ...file,
    anchor: expected,
    signal: context.signal,
  });
  const lines = [
    `${entries} entries in ${chains} chains. ${ok ? "No problem was found." : `${problemCount} problems were found:`}`,
    ...problems.map(({ workspace, chain, sequence, problem }) => {
      const place = [workspace, chain, sequence].filter((part) => part !== undefined).join("/");
      return `PROBLEM  ${place}: ${problem}`;
    }),
    ...openChains.map(({ workspace, chain, last, note }) => `note     ${workspace}/${chain}/${last}: ${note}`),
    ...(ok ? [] : ["Keep a copy of the file. Find out who writes to it, and compare it with a backup."]),
  ];
  context.output.result(lines.join("\n"), {
    ok,
    entries,
    chains,
    problemCount,
    problems: problems.map(({ workspace = null, chain = null, sequence = null, problem }) => ({
      workspace,
      chain,
      sequence,
      problem,
    })),
    openChains: openChains.map(({ workspace, chain, last, note }) => ({ workspace, chain, last, note })),
  });
  if (!ok) throw new ProblemsPrinted();
}

/** Prints the heads of all chains, or writes them into a new file, to keep elsewhere. */
export async function anchor(context: Context, { out }: { readonly out?: string }): Promise<void> {
  const heads = await auditAnchor(await auditFile(context));
  const text = jsonOf(heads);
  if (out === undefined) return context.output.result(text, { anchor: heads, file: null });
  await writeNewFile(out, `${text}\n`);
  context.output.result(`${out} has the anchor. Keep it on another machine.`, { anchor: heads, file: out });
}

/** Prints every entry as one line of JSON, decrypted, oldest first. */
export async function exportEntries(context: Context, { workspace }: { readonly workspace?: string }): Promise<void> {
  const { output, signal } = context;
  for await (const entry of exportAudit({ ...(await auditFile(context)), workspace })) {
    signal.throwIfAborted();
    if (output.isClosed) return;
    const printed = auditEntryResult(entry);
    output.result(jsonOf(printed), printed);
  }
}

async function auditFile(context: Context) {
  const path = auditPath(await gatewayConfig(context));
  // Opening an empty file makes it a database.
  if (!(await hasContent(path))) {
    throw new CommandError("USAGE", `The audit does not exist, or is empty: ${path}`, {
      hint: "Check that its volume is mounted, and that `gateway.audit` of the configuration names the right file. If it was lost, restore a backup.",
    });
  }
  return { path, keys: await context.keys() };
}

/** Reads the last line of a file of anchors, which may also be what `--json` printed. */
function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text.trimEnd().split("\n").at(-1) ?? "");
    return typeof value === "object" && value !== null && "anchor" in value ? value.anchor : value;
  } catch {
    throw new CommandError("USAGE", "The file of the anchor is not JSON", {
      hint: "Pass a file that `keyward audit anchor` has written.",
    });
  }
}
