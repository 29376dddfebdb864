import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A fenced block of a Markdown page. */
export interface CodeBlock {
  /** The text after the opening fence. */
  readonly info: string;
  /** Line number of the first line of code, counted from 1. */
  readonly line: number;
  readonly code: string;
}

/** A parsed Markdown page. */
export interface Page {
  /** Path relative to the root. */
  readonly file: string;
  readonly blocks: readonly CodeBlock[];
  /** All lines of the page. Lines of fenced blocks are empty. */
  readonly prose: readonly string[];
  /** Anchors that a link may name after `#`. */
  readonly anchors: ReadonlySet<string>;
}

const places = ["*.md", "docs/**/*.md", "packages/*/*.md", "examples/*/*.md", "bench/*.md", ".changeset/*.md"];

/** Reads every page of the repository. */
export function readPages(root: string): Page[] {
  return globSync(places, { cwd: root })
    .sort()
    .map((file) => readPage(file, readFileSync(join(root, file), "utf8")));
}

/** Parses one page. */
export function readPage(file: string, text: string): Page {
  const blocks: CodeBlock[] = [];
  const prose: string[] = [];
  let open: { fence: string; indent: number; info: string; line: number; code: string[] } | undefined;
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const [, indent = "", fence = "", info = ""] = /^( *)(`{3,}|~{3,})(.*)$/.exec(line) ?? [];
    if (open === undefined) {
      if (fence !== "") open = { fence, indent: indent.length, info: info.trim(), line: index + 2, code: [] };
      prose.push(fence === "" ? line : "");
      continue;
    }
    prose.push("");
    if (fence.startsWith(open.fence) && info.trim() === "") {
      blocks.push({ info: open.info, line: open.line, code: open.code.join("\n") });
      open = undefined;
    } else {
      open.code.push(line.slice(Math.min(open.indent, line.length - line.trimStart().length)));
    }
  }
  if (open !== undefined) throw new Error(`${file}:${open.line - 1} opens a block that is never closed`);
  return { file, blocks, prose, anchors: anchorsOf(prose) };
}

/** Returns the anchors that code hosts make of headings, and explicit anchors. */
function anchorsOf(prose: readonly string[]): Set<string> {
  const anchors = new Set<string>();
  for (const line of prose) {
    for (const [, id = ""] of line.matchAll(/<a\s+(?:id|name)="([^"]+)"/g)) anchors.add(id);
    const heading = /^#{1,6}\s+(.*?)\s*#*$/.exec(line)?.[1];
    if (heading === undefined) continue;
    const words = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .toLowerCase()
      .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, "")
      .replaceAll(" ", "-");
    let anchor = words;
    for (let count = 1; anchors.has(anchor); count++) anchor = `${words}-${count}`;
    anchors.add(anchor);
  }
  return anchors;
}

/** Returns the targets of a page's links and images, with their lines. */
export function linksOf(page: Page): { readonly target: string; readonly line: number }[] {
  return page.prose.flatMap((text, index) => {
    const visible = text.replace(/`[^`]*`/g, "``");
    const inline = [...visible.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)];
    const defined = [...visible.matchAll(/^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)>?/g)];
    return [...inline, ...defined].map(([, target = ""]) => ({ target, line: index + 1 }));
  });
}
