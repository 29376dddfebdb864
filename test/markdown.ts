import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A fenced block of a Markdown page. */
export interface CodeBlock {
  /** What stands behind the opening fence. */
  readonly info: string;
  /** The line of its first line of code, counted from 1. */
  readonly line: number;
  readonly code: string;
}

/** A Markdown page, taken apart. */
export interface Page {
  /** Relative to the root. */
  readonly file: string;
  readonly blocks: readonly CodeBlock[];
  /** Its lines outside of fenced blocks; the others are empty here. */
  readonly prose: readonly string[];
  /** What a link may name behind `#`. */
  readonly anchors: ReadonlySet<string>;
}

const places = ["*.md", "docs/**/*.md", "packages/*/*.md", "examples/*/*.md", "bench/*.md", ".changeset/*.md"];

/** Every page of the repository. */
export function readPages(root: string): Page[] {
  return globSync(places, { cwd: root })
    .sort()
    .map((file) => readPage(file, readFileSync(join(root, file), "utf8")));
}

/** Takes one page apart. */
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

/** The anchors that headings get, as code hosts make them, and those that are written out. */
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

/** The targets of a page's links and images, with their lines. */
export function linksOf(page: Page): { readonly target: string; readonly line: number }[] {
  return page.prose.flatMap((text, index) => {
    const visible = text.replace(/`[^`]*`/g, "``");
    const inline = [...visible.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)];
    const defined = [...visible.matchAll(/^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)>?/g)];
    return [...inline, ...defined].map(([, target = ""]) => ({ target, line: index + 1 }));
  });
}
