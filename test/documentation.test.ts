import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CodeBlock, linksOf, type Page, readPage, readPages } from "./markdown.ts";
import {
  checkTypes,
  linesInPlace,
  type Outcome,
  type Program,
  runProgram,
  Servers,
  scratch,
  writeProgram,
} from "./programs.ts";
import { readManifest, repository } from "./workspace.ts";

const pages = readPages(repository);

/** Marks a block that runs before each later `ts` block of its page, in the same program. */
const setUpInfo = "ts set-up";
const runInfos: readonly string[] = ["ts", setUpInfo];

/**
 * Writes each TypeScript block of the pages as a program into a folder of this repository. The set-up blocks of a page
 * are part of the programs of the blocks after them.
 */
function writePrograms(documents: readonly Page[], folder: string): Program[] {
  return documents.flatMap(({ file, blocks }) => {
    const setUps: CodeBlock[] = [];
    return blocks
      .filter(({ info }) => runInfos.includes(info))
      .map((block) => {
        const { line } = block;
        const code = linesInPlace([...setUps, block]);
        if (block.info === setUpInfo) setUps.push(block);
        return writeProgram(folder, file, line, code);
      });
  });
}

/** Returns blocks that readers consider TypeScript or JavaScript, and that are not run because of their mark. */
function unrunBlocks(documents: readonly Page[]): string[] {
  return documents.flatMap(({ file, blocks }) =>
    blocks
      .filter(({ info }) => !runInfos.includes(info) && /^(?:[mc]?[jt]sx?|typescript|javascript)\b/i.test(info))
      .map(({ info, line }) => `${file}:${line - 1} "${info}": only blocks marked ${runInfos.join(" or ")} are run`),
  );
}

/** Returns links whose file or heading does not exist. */
function deadLinks(documents: readonly Page[], root: string): string[] {
  const anchors = new Map(documents.map((page) => [page.file, page.anchors]));
  return documents.flatMap((page) =>
    linksOf(page).flatMap(({ target, line }) => {
      if (/^[a-z][a-z+.-]*:/i.test(target)) return [];
      const [path = "", anchor] = decodeURI(target).split("#");
      const file = path === "" ? page.file : join(dirname(page.file), path);
      const dead =
        !(anchors.has(file) || existsSync(join(root, file))) ||
        (anchor !== undefined && anchors.get(file)?.has(anchor) === false);
      return dead ? [`${page.file}:${line} ${target}`] : [];
    }),
  );
}

/** Returns npm scripts that a page uses and that this repository does not have. */
function unknownScripts(documents: readonly Page[], known: readonly string[]): string[] {
  return documents.flatMap(({ file, blocks }) =>
    blocks
      .filter(({ info }) => /^(?:sh|bash|shell|console)\b/.test(info))
      .flatMap(({ code, line }) =>
        code.split("\n").flatMap((text, index) =>
          [...text.matchAll(/\bnpm (?:run(?:-script)? ([\w:-]+)|(test|start)\b)/g)]
            .map(([, script, short = ""]) => script ?? short)
            .filter((script) => !known.includes(script))
            .map((script) => `${file}:${line + index} npm has no script ${script}`),
        ),
      ),
  );
}

describe("the pages", () => {
  const folder = scratch();
  const programs = writePrograms(pages, folder);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("include the README, whose code examples are checked, too", () => {
    expect(programs.map(({ place }) => place.split(":")[0])).toContain("README.md");
  });

  const servers = new Servers();
  beforeAll(() => servers.start(programs), 600_000);
  afterAll(() => servers.stop());

  it.concurrent.for(programs)("have a program at $place that runs without an error", async (program, { skip }) => {
    const { environment, missing } = servers.of(program);
    if (missing.length > 0 && process.env["CI"] !== "true") skip(missing.join("; "));
    const { ok, output } = await runProgram(program, environment);
    expect(ok, `${program.place} does not run:\n${output}`).toBe(true);
  });

  it("contain code with correct types", async () => {
    const { ok, output } = await checkTypes(folder);
    expect(ok, output).toBe(true);
  });

  it("contain only TypeScript blocks that are run", () => expect(unrunBlocks(pages)).toEqual([]));

  it("link only to existing files and headings", () => expect(deadLinks(pages, repository)).toEqual([]));

  it("name only existing npm scripts", () => {
    expect(unknownScripts(pages, Object.keys(readManifest(repository).scripts ?? {}))).toEqual([]);
  });
});

describe("the checks of pages", () => {
  const folder = scratch();
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const fence = "```";
  const page = (text: string) => readPage("stale.md", text);

  describe("the run of a code block", () => {
    const failing = {
      throws: `throw new Error("broken");`,
      "rejects after its last line": `void Promise.reject(new Error("late"));`,
      "imports a missing export": `import { missing } from "@keyward/core"; missing();`,
      "waits forever": `await new Promise(() => {});`,
      "sets an exit code": `process.exitCode = 3;`,
    };
    it.each(Object.entries(failing))("fails if the block %s", async (_, code) => {
      const [program] = writePrograms([page(`Text.\n\n${fence}ts\n${code}\n${fence}\n`)], scratchFor(folder));
      if (program === undefined) throw new Error("The block was not found");
      expect(program.place).toBe("stale.md:4");
      expect((await runProgram(program)).ok).toBe(false);
    });

    it("reports the line of the page in which the block throws", async () => {
      const [program] = writePrograms(
        [page(`One.\n\n${fence}ts\n\nthrow new Error("x");\n${fence}`)],
        scratchFor(folder),
      );
      if (program === undefined) throw new Error("The block was not found");
      expect((await runProgram(program)).output).toContain(".ts:5");
    });

    it("succeeds if the block is correct and imports a package of the workspace", async () => {
      const code = `import { Keyring } from "@keyward/core"; console.log(Keyring.generate("first").primary);`;
      const [program] = writePrograms([page(`${fence}ts\n${code}\n${fence}`)], scratchFor(folder));
      if (program === undefined) throw new Error("The block was not found");
      expect(await runProgram(program)).toEqual({ ok: true, output: "first" });
    });

    it("takes place in an empty folder outside of this repository", async () => {
      const code = `import { readdirSync } from "node:fs"; if (readdirSync(".").length > 0) throw new Error("not empty");`;
      const [program] = writePrograms([page(`${fence}ts\n${code}\n${fence}`)], scratchFor(folder));
      if (program === undefined) throw new Error("The block was not found");
      expect(await runProgram(program)).toEqual({ ok: true, output: "" });
    });
  });

  describe("a set-up block of a page", () => {
    const setUp = `import { Keyring } from "@keyward/core";\nconst keyring = Keyring.generate("first");`;
    const text = `${fence}ts set-up\n${setUp}\n${fence}\n\n${fence}ts\nconsole.log(keyring.primary);\n${fence}\n`;

    it("runs before each later block of its page", async () => {
      const programs = writePrograms([page(text)], scratchFor(folder));
      expect(programs.map(({ place }) => place)).toEqual(["stale.md:2", "stale.md:7"]);
      const outputs = await Promise.all(programs.map(async (program) => await runProgram(program)));
      expect(outputs).toEqual([
        { ok: true, output: "" },
        { ok: true, output: "first" },
      ]);
    });

    it("does not run before the blocks of another page", async () => {
      const other = readPage("other.md", `${fence}ts\nconsole.log(keyring.primary);\n${fence}\n`);
      const program = writePrograms([page(text), other], scratchFor(folder)).at(-1);
      if (program === undefined) throw new Error("The block was not found");
      expect((await runProgram(program)).output).toContain("keyring is not defined");
    });

    it("does not change the line numbers in errors of later blocks", async () => {
      const failing = `${text}\n${fence}ts\nthrow new Error("x");\n${fence}\n`;
      const program = writePrograms([page(failing)], scratchFor(folder)).at(-1);
      if (program === undefined) throw new Error("The block was not found");
      expect((await runProgram(program)).output).toContain(".ts:11");
    });
  });

  describe("the check of types", () => {
    let outcome: Outcome;
    beforeAll(async () => {
      const blockFolder = scratchFor(folder);
      const code = `import { Keyring } from "@keyward/core";\nconst id: number = Keyring.generate().primary;\n`;
      writePrograms([page(`${fence}ts\n${code}${fence}`)], blockFolder);
      outcome = await checkTypes(blockFolder);
    });
    it("reports a type error with its line in the page", () => {
      expect(outcome.ok).toBe(false);
      expect(outcome.output).toMatch(/stale\.md__line-2\.ts\(3,7\): error TS2322/);
    });
  });

  it.each(["ts ignore", "typescript", "js", "mjs", "tsx"])(
    "report a code block with the mark %s, because such a block is not run",
    (info) => {
      expect(unrunBlocks([page(`${fence}${info}\n1;\n${fence}`)])).toHaveLength(1);
    },
  );

  it.each(["[a](missing.md)", "![a](docs/missing.png)", "[a](#nowhere)", "[a]: missing.md"])(
    "report the dead link %s",
    (link) => {
      expect(deadLinks([page(`# Here\n\n${link}`)], repository)).toHaveLength(1);
    },
  );

  it.each(["[a](package.json)", "[a](#here-i-am)", "[a](#here-i-am-1)", "`[a](missing.md)`", "[a](https://keyv.org)"])(
    "accept the link %s",
    (link) => {
      expect(deadLinks([page(`# Here, I am!\n\n## Here I am\n\n${link}`)], repository)).toEqual([]);
    },
  );

  it("report an npm script that does not exist", () => {
    const text = `${fence}sh\nnpm run demo && npm run gone\nnpm test -- packages/core\n${fence}`;
    expect(unknownScripts([page(text)], ["demo", "test"])).toEqual(["stale.md:2 npm has no script gone"]);
  });

  it("report a code block that is never closed", () => {
    expect(() => page(`${fence}ts\n1;`)).toThrow("stale.md:1");
  });
});

function scratchFor(folder: string): string {
  return mkdtempSync(join(folder, "page-"));
}
