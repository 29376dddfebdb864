import { auditAnchor, exportAudit, SecretsError, verifyAudit } from "@keyward/secrets";
import type { Context } from "../../context.ts";
import { CommandError, ProblemsPrinted } from "../../exit-codes.ts";
import { appendLine } from "../../files/append-line.ts";
import { auditEntryResult } from "../../results/audit-entry-result.ts";
import { auditPath, gatewayConfig } from "../../service/local-service.ts";
import { textOfFile } from "../../service/secret-value.ts";
import { hasContent } from "../../service/used-stores.ts";
import { jsonOf } from "../../terminal/output.ts";

const maxAnchorBytes = 268_435_456;

// These commands work on the machine that has the keyring, without the admin API.

/** Verifies the audit. With `anchor`, also compares the audit with all anchors in a file that was kept elsewhere. */
export async function verify(context: Context, { anchor }: { readonly anchor?: string }): Promise<void> {
  const file = await auditFile(context);
  const anchors =
    anchor === undefined
      ? undefined
      : parsed(await textOfFile(anchor, { maxBytes: maxAnchorBytes, signal: context.signal }));
  const { ok, entries, chains, problems, problemCount, openChains } = await verifyAudit({
    ...file,
    anchors,
    signal: context.signal,
  });
  const lines = [
    `${countOf(entries, "entry", "entries")} in ${countOf(chains, "chain")}. ${found(problemCount)}`,
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

/**
 * Prints the heads of all chains, to keep elsewhere. With `out`, appends them to a file of anchors, but only if the audit
 * verifies against the anchors in the file. Otherwise the next anchor would hide that the audit was put back.
 */
export async function anchor(context: Context, { out }: { readonly out?: string }): Promise<void> {
  const file = await auditFile(context);
  if (out === undefined) {
    const heads = await auditAnchor(file);
    return context.output.result(jsonOf(heads), { anchor: heads, file: null });
  }
  // A full disk may have left an empty file, which is like a new one.
  if (await hasContent(out)) {
    const anchors = parsed(await textOfFile(out, { maxBytes: maxAnchorBytes, signal: context.signal }));
    const { ok, problemCount } = await verifyAudit({ ...file, anchors, signal: context.signal });
    if (!ok) {
      throw new SecretsError("AUDIT_INVALID", `No anchor was made: the audit has ${countOf(problemCount, "problem")}`, {
        hint: `Run \`keyward audit verify --anchor <file>\` with the file of --out, which lists the problems. Keep the file as it is. If the audit was restored from a backup that is older than the last anchor, begin another file of anchors.`,
      });
    }
  }
  const heads = await auditAnchor(file);
  await appendLine(out, jsonOf(heads), { shown: "The file of --out" });
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

function found(problemCount: number): string {
  if (problemCount === 0) return "No problem was found.";
  return `${countOf(problemCount, "problem")} ${problemCount === 1 ? "was" : "were"} found:`;
}

function countOf(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
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

/** Parses each line of a file of anchors. A line may also be the output of `keyward audit anchor --json`. */
function parsed(text: string): unknown[] {
  if (text.trim() === "") {
    throw new CommandError("USAGE", "The file of anchors is empty", {
      hint: "Pass a file that `keyward audit anchor` has written.",
    });
  }
  try {
    return text
      .trimEnd()
      .split("\n")
      .map((line) => {
        const value: unknown = JSON.parse(line);
        return typeof value === "object" && value !== null && "anchor" in value ? value.anchor : value;
      });
  } catch {
    throw new CommandError("USAGE", "A line of the file of anchors is not JSON", {
      hint: "Pass a file that `keyward audit anchor` has written. If the last line of the file has no end, because a machine was stopped while it wrote the line, remove this line.",
    });
  }
}
