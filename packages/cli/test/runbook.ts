import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Page, readPage } from "../../../test/markdown.ts";

const lineInfo = "sh drill";
const configInfo = "json drill";

/** The page `docs/rotation.md`, whose command lines a drill runs as they are written. */
export class Runbook {
  readonly #lines: ReadonlyMap<string, readonly string[]>;
  readonly #left: Set<string>;
  /** The content of the configuration file that the page shows. */
  readonly config: Readonly<Record<string, unknown>>;
  /** The shell blocks of the page that no drill runs. */
  readonly unrun: readonly string[];

  constructor() {
    const path = fileURLToPath(new URL("../../../docs/rotation.md", import.meta.url));
    const page = readPage("docs/rotation.md", readFileSync(path, "utf8"));
    this.#lines = linesOf(page);
    this.#left = new Set(this.#lines.keys());
    this.config = JSON.parse(page.blocks.find(({ info }) => info === configInfo)?.code ?? "");
    this.unrun = page.blocks
      .filter(({ info }) => /^(?:sh|bash|shell|console)\b/.test(info) && info !== lineInfo)
      .map(({ line }) => `docs/rotation.md:${line}`);
  }

  /** The headings of the sections whose command lines were not asked for yet. */
  get left(): readonly string[] {
    return [...this.#left];
  }

  /** Returns the command lines of the section with a heading. */
  section(heading: string): readonly string[] {
    const lines = this.#lines.get(heading);
    if (lines === undefined) throw new Error(`docs/rotation.md has no command lines under "${heading}"`);
    this.#left.delete(heading);
    return lines;
  }

  /** Returns the only command line of the section with a heading. */
  line(heading: string): string {
    const [line, ...others] = this.section(heading);
    if (line === undefined || others.length > 0) throw new Error(`"${heading}" does not have one command line`);
    return line;
  }
}

function linesOf({ blocks, prose }: Page): ReadonlyMap<string, readonly string[]> {
  const lines = new Map<string, string[]>();
  for (const { info, line, code } of blocks) {
    if (info !== lineInfo) continue;
    const heading = prose.slice(0, line).findLast((text) => text.startsWith("#")) ?? "";
    const title = heading.replace(/^#+ /, "");
    lines.set(title, [...(lines.get(title) ?? []), ...code.split("\n").filter((text) => text !== "")]);
  }
  return lines;
}
