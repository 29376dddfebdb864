import { globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CodeBlock } from "./markdown.ts";
import { checkTypes, linesInPlace, type Program, runProgram, Servers, scratch, writeProgram } from "./programs.ts";
import { publishedLibraries, repository } from "./workspace.ts";

/** The code of an `@example` in a docstring. */
interface Example extends CodeBlock {
  /** Path of the source file, relative to the root. */
  readonly file: string;
  /** The name that the docstring documents. */
  readonly name: string;
}

/** The import that a program needs to use a name. */
interface Import {
  readonly name: string;
  readonly from: string;
  readonly kind: "value" | "type" | "default";
}

/**
 * The declarations of the variables that examples use without declaring them, by the name of the variable. A
 * declaration may use other variables of this table.
 */
const declarations: Readonly<Record<string, string>> = {
  adapter: `const adapter = Object.assign(new KeyvMemoryAdapter(new Map()), { disconnect: async () => undefined });`,
  apiKey: `const apiKey = process.env["KV_API_KEY"] ?? "";`,
  client: `const client = Object.assign(new EventEmitter(), { disconnect: async () => undefined });`,
  currentKey: "const currentKey = randomBytes(32);",
  formerKey: "const formerKey = randomBytes(32);",
  given: `const given = "redis://localhost:6379";`,
  // The keyring is in the folder in which the program runs.
  keys: `const keys = fileKeys("keyring.json"); await keys.create(Keyring.generate("2026-11").withStores(["sessions"]));`,
  keyv: `const keyv = createKeyv({ store: new Map(), keys: Keyring.generate() });`,
  options: `const options: { readonly timeoutMs?: number } = {};`,
  // `application` stands for another process of the application, which is a replica and has its own key provider.
  sessions: `const sessions = createKeyv({ store, keys, namespace: "sessions" });
    const application = createKeyv({ store, keys: fileKeys("keyring.json"), namespace: "sessions", replica: { name: "web-1" } });
    await application.set("42", { user: 7 });`,
  store: `const store = new MemoryStore();`,
  url: `const url = process.env["KV_URL"] ?? "";`,
  wrapper: `const wrapper: KeyringWrapper = {
      wrap: async (document) => Buffer.from(document).toString("base64"),
      unwrap: async (wrapped) => Buffer.from(wrapped, "base64"),
    };`,
};

/** Names that examples and declarations use, and that no package of the workspace exports. */
const otherImports: readonly Import[] = [
  { name: "describe", from: "node:test", kind: "value" },
  { name: "EventEmitter", from: "node:events", kind: "value" },
  { name: "it", from: "node:test", kind: "value" },
  { name: "KeyvMemoryAdapter", from: "keyv", kind: "value" },
  { name: "KeyvRedis", from: "@keyv/redis", kind: "default" },
  { name: "randomBytes", from: "node:crypto", kind: "value" },
  { name: "readFile", from: "node:fs/promises", kind: "value" },
  { name: "sodium", from: "libsodium-wrappers", kind: "default" },
  { name: "SecretsReader", from: "@keyward/secrets/reader", kind: "value" },
  { name: "scopesWithout", from: "@keyward/secrets/reader", kind: "value" },
  { name: "stat", from: "node:fs/promises", kind: "value" },
  { name: "writeFile", from: "node:fs/promises", kind: "value" },
];

/** Examples that never end and must be stopped, by the documented name, each with the reason. */
const endless: ReadonlyMap<string, string> = new Map([
  ["reencryptionWorker", "the worker waits for jobs until the process receives SIGTERM"],
]);

const forAuthorsOfStores = "a check that the authors of a store call with one argument";

const forServersOfTheService = "a check that both servers of the secrets service make";

/** Exported classes and functions without an example, each with the reason. */
const withoutExample: ReadonlyMap<string, string> = new Map([
  ["bearerToken", forServersOfTheService],
  ["Budgets", forServersOfTheService],
  ["ClientAddresses", forServersOfTheService],
  ["networkOf", forServersOfTheService],
  ["OwnNames", forServersOfTheService],
  ["Places", forServersOfTheService],
  ["Readiness", forServersOfTheService],
  ["RefusedTokens", forServersOfTheService],
  ["Caller", "only methods of SecretsAdmin make one, as its example shows"],
  ["hasReservedSpace", forAuthorsOfStores],
  ["invalidCursor", forAuthorsOfStores],
  ["isBinary", forAuthorsOfStores],
  ["isBounded", forAuthorsOfStores],
  ["isNamespaced", forAuthorsOfStores],
  ["isRanged", forAuthorsOfStores],
  ["isScannable", forAuthorsOfStores],
  ["requireEntryExpires", forAuthorsOfStores],
  ["requireExpires", forAuthorsOfStores],
  ["requireKey", forAuthorsOfStores],
  ["requireLimit", forAuthorsOfStores],
  ["requireNamespace", forAuthorsOfStores],
  ["requireNewExpires", forAuthorsOfStores],
  ["requireValue", forAuthorsOfStores],
  ["sameStored", forAuthorsOfStores],
  ["requireSavable", "a check that the authors of a key provider call with one argument"],
  ["sameKeyring", "a comparison that the authors of a key provider call with two keyrings"],
]);

/** The key of all examples. It is the same in each run, because a Redis server that outlives a run keeps records under it. */
const encryptionKey = Buffer.from("a key for examples in docstrings").toString("base64");

/** An example that waits for something that never happens is stopped after this time. A busy machine is slow. */
const longestRunMs = 100_000;
/** An example in the list `endless` is stopped after this time. */
const endlessRunMs = 5_000;

/** Finds the examples in the docstrings of a source file. */
function examplesIn(file: string, source: string): Example[] {
  return [...source.matchAll(/\/\*\*(?:(?!\*\/)[\s\S])*\*\//g)].flatMap(({ 0: docstring, index }) => {
    const name = documentedName(source.slice(index + docstring.length));
    const firstLine = source.slice(0, index).split("\n").length;
    const examples: Example[] = [];
    let code: string[] | undefined;
    const end = () => {
      const line = firstLine + lines.length;
      if (code !== undefined) examples.push({ file, name, info: "", line: line - code.length, code: code.join("\n") });
      code = undefined;
    };
    const lines: string[] = [];
    for (const text of docstring
      .slice(0, -2)
      .trimEnd()
      .split("\n")
      .map((line) => line.replace(/^\s*\/?\*+ ?/, ""))) {
      if (/^@\w/.test(text)) end();
      if (/^@example\b/.test(text)) {
        if (text.trim() !== "@example") throw new Error(`${file}:${firstLine + lines.length} has text after @example`);
        code = [];
      } else {
        // A fence becomes an empty line, so that each line keeps its number.
        code?.push(text.startsWith("```") ? "" : text);
      }
      lines.push(text);
    }
    end();
    return examples;
  });
}

/** Returns the name that the first declaration of a text declares. */
function documentedName(declaration: string): string {
  const words =
    /^\s*(?:(?:export|default|declare|abstract|async|static|readonly|override|get|set|function|class|interface|type|const)\s+)*([\w$]+)/;
  return words.exec(declaration)?.[1] ?? "";
}

/** Reads the names that the packages of the workspace export. */
function workspaceExports(): (Import & { readonly folder: string })[] {
  return publishedLibraries(repository).flatMap(({ folder, manifest }) => {
    const index = readFileSync(join(repository, folder, "src", "index.ts"), "utf8");
    return [...index.matchAll(/export (type )?\{([^}]*)\}/g)].flatMap(([, allTypes = "", names = ""]) =>
      [...names.matchAll(/(type )?(\w+)(?=\s*(?:,|$))/g)].map(
        ([, type = "", name = ""]): Import & { folder: string } => ({
          name,
          from: manifest.name,
          folder,
          kind: allTypes === "" && type === "" ? "value" : "type",
        }),
      ),
    );
  });
}

/** Returns the identifiers that a text of code uses, except those that are properties. */
function identifiersIn(code: string): Set<string> {
  const bare = code.replace(/"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\/\/.*|\/\*[\s\S]*?\*\//g, '""');
  return new Set(bare.match(/(?<![\w$]|(?<!\.\.)\.)[A-Za-z_$][\w$]*(?![\w$]|\??:)/g) ?? []);
}

/** Returns the names that a text of code declares, except those of parameters. */
function declaredIn(code: string): Set<string> {
  const names = [...code.matchAll(/\b(?:const|let|class|function)\s+(?:\{([^}]*)\}|([\w$]+))/g)];
  return new Set(
    names.flatMap(([, several = "", name = ""]) =>
      name === "" ? (several.match(/[\w$]+(?![\w$]|\s*:)/g) ?? []) : [name],
    ),
  );
}

/** Completes an example that has no imports: returns the line of imports and declarations that precedes it. */
function preludeOf(code: string, imports: readonly Import[]): string {
  const declared = declaredIn(code);
  const used = new Set<Import>();
  const statements: string[] = [];
  const complete = (text: string) => {
    for (const name of identifiersIn(text)) {
      if (declared.has(name)) continue;
      declared.add(name);
      const found = imports.find((one) => one.name === name);
      if (found !== undefined) used.add(found);
      const declaration = declarations[name];
      if (declaration === undefined) continue;
      complete(declaration);
      statements.push(declaration.replace(/\s*\n\s*/g, " "));
    }
  };
  complete(code);
  const lines = [...used].map(({ name, from, kind }) =>
    kind === "default"
      ? `import ${name} from "${from}";`
      : `import { ${kind === "type" ? "type " : ""}${name} } from "${from}";`,
  );
  return [...lines, ...statements].join(" ");
}

/** Writes each example as a program into a folder. Each line of an example has the number that it has in its file. */
function writeExamples(examples: readonly Example[], imports: readonly Import[], folder: string): Program[] {
  return examples.map((example) => {
    const { file, line, code } = example;
    const prelude = /^import\b/m.test(code) ? "" : preludeOf(code, imports);
    return writeProgram(folder, file, line, linesInPlace([{ info: "", line: 1, code: prelude }, example]));
  });
}

/** Replaces the paths of programs in the output of the compiler and of Node.js by the places of the examples. */
function inSources(output: string): string {
  return output.replace(
    /[^\s(]*?([\w.-]+)__line-\d+\.ts(?:\((\d+),(\d+)\)|:(\d+)(?::(\d+))?)/g,
    (_, file: string, ...position: (string | undefined)[]) =>
      [file.replaceAll("__", "/"), ...position.slice(0, 4).filter((part) => part !== undefined)].join(":"),
  );
}

const exported = workspaceExports();
const imports: readonly Import[] = [...exported, ...otherImports];
const sources = globSync("packages/*/src/**/*.ts", { cwd: repository }).sort();
const examples = sources.flatMap((file) => examplesIn(file, readFileSync(join(repository, file), "utf8")));

describe("the examples in docstrings", () => {
  const folder = scratch();
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const programs = writeExamples(examples, imports, folder);

  const servers = new Servers();
  beforeAll(() => servers.start(programs), 600_000);
  afterAll(() => servers.stop());

  it("are found in every package", () => {
    const folders = new Set(examples.map(({ file }) => file.split("/").slice(0, 2).join("/")));
    expect([...folders]).toEqual(publishedLibraries(repository).map((one) => one.folder));
  });

  const environmentOf = (program: Program) => {
    const { environment: served, missing } = servers.of(program);
    const own = { APP_ENCRYPTION_KEY: encryptionKey, NODE_COMPILE_CACHE: join(folder, "compiled") };
    const environment = { ...served, ...own };
    const redis = served["REDIS_URL"];
    if (redis === undefined) return { environment, missing };
    // Each program has its own database, so that no program processes the jobs of another.
    const database =
      1 + programs.filter(({ needs }) => needs.some(({ sign }) => sign === "REDIS_URL")).indexOf(program);
    const url = new URL(`/${database}`, redis).href;
    return { environment: { ...environment, REDIS_URL: url }, missing };
  };

  it.concurrent.for(
    programs.map((program, index) => [program.place, program, endless.get(examples[index]?.name ?? "")] as const),
  )(
    "have an example at %s that runs without an error",
    { timeout: longestRunMs + 20_000 },
    async ([place, program, reason], { skip }) => {
      const { environment, missing } = environmentOf(program);
      if (missing.length > 0 && process.env["CI"] !== "true") skip(missing.join("; "));
      const limitMs = reason === undefined ? longestRunMs : endlessRunMs;
      const { ok, output } = await runProgram(program, environment, limitMs);
      if (reason === undefined) expect(ok, `The example at ${place} does not run:\n${inSources(output)}`).toBe(true);
      else expect(output, `The example at ${place} ends or fails`).toBe(`It was still running after ${limitMs} ms.`);
    },
  );

  it("include every example that this test lists as one that never ends", () => {
    const names = examples.map(({ name }) => name);
    expect([...endless.keys()].filter((name) => !names.includes(name))).toEqual([]);
  });

  it("use every variable and every import that this test adds", () => {
    const usedIn = (texts: readonly string[]) => new Set(texts.flatMap((text) => [...identifiersIn(text)]));
    const inExamples = usedIn(examples.map(({ code }) => code));
    const unused = (name: string) => {
      const others = Object.entries(declarations).filter(([declared]) => declared !== name);
      return !inExamples.has(name) && !usedIn(others.map(([, declaration]) => declaration)).has(name);
    };
    expect([...Object.keys(declarations), ...otherImports.map(({ name }) => name)].filter(unused)).toEqual([]);
  });

  it("show each exported class and function that is not listed as an exception", () => {
    const shown = new Set(examples.map(({ name }) => name));
    const callable = sources.flatMap((file) =>
      [
        ...readFileSync(join(repository, file), "utf8").matchAll(/^export (?:async )?(?:function|class) (\w+)/gm),
      ].flatMap(([, name = ""]) =>
        exported.some((one) => one.name === name && one.kind === "value" && file.startsWith(`${one.folder}/`))
          ? [name]
          : [],
      ),
    );
    expect(callable.length).toBeGreaterThan(50);
    expect(callable.filter((name) => !shown.has(name)).sort()).toEqual([...withoutExample.keys()].sort());
  });

  it("have correct types", async () => {
    const { ok, output } = await checkTypes(folder);
    expect(ok, inSources(output)).toBe(true);
  });
});

describe("the check of examples", () => {
  const folder = scratch();
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const source = `/** A docstring without an example. */
export const one = 1;

/**
 * Text.
 *
 * @example
 * first();
 * if (true) {
 *   second();
 * }
 * @throws KeywardError
 */
export async function shown(): Promise<void> {}

export class Shown {
  /**
   * @example
   * \`\`\`ts
   * third();
   * \`\`\`
   */
  static method(): void {}
}
`;

  /** Writes an example whose code begins in line 4 of its file. */
  function programOf(code: string): { readonly folder: string; readonly program: Program } {
    const own = mkdtempSync(join(folder, "example-"));
    const lines = code.split("\n").map((line) => ` * ${line}`);
    const text = ["/**", " * Text.", " * @example", ...lines, " */", "export function shown() {}"].join("\n");
    const [program] = writeExamples(examplesIn("packages/a/src/b.ts", text), imports, own);
    if (program === undefined) throw new Error("The example was not found");
    return { folder: own, program };
  }

  it("finds the code, the name and the line of each example, with or without a code fence", () => {
    expect(examplesIn("a.ts", source)).toEqual([
      { file: "a.ts", name: "shown", info: "", line: 8, code: "first();\nif (true) {\n  second();\n}" },
      { file: "a.ts", name: "method", info: "", line: 19, code: "\nthird();\n" },
    ]);
  });

  it("refuses an example whose code begins in the line of its tag, because that code would not run", () => {
    expect(() => examplesIn("a.ts", "/**\n * @example first();\n */\nexport function f() {}")).toThrow("a.ts:2");
  });

  it("adds the imports of packages and the declarations of variables that an example uses", async () => {
    const { program } = programOf(`await sessions.set("7", "x");\nconsole.log((await census(store)).records);`);
    expect(await runProgram(program)).toEqual({ ok: true, output: "2" });
  });

  it("adds nothing to an example that has imports of its own", async () => {
    const { program } = programOf(`import { Keyring } from "@keyward/core";\ncensus(Keyring);`);
    expect((await runProgram(program)).output).toContain("census is not defined");
  });

  it("adds nothing for a name that is only a property, or that is only in a string or a comment", () => {
    expect(preludeOf(`const a = { keys: 1 }; a.keys; "store"; // Keyring`, imports)).toBe("");
  });

  it.each([`throw new Error("broken");`, "missing();", `void Promise.reject(new Error("late"));`])(
    "reports the file and the line of an example that runs %s",
    async (code) => {
      const { ok, output } = await runProgram(programOf(`const a = 1;\n${code}`).program);
      expect(ok).toBe(false);
      expect(inSources(output)).toContain("packages/a/src/b.ts:5");
    },
  );

  it("stops an example that never ends", async () => {
    const { ok, output } = await runProgram(programOf("setInterval(() => {}, 1_000);").program, {}, 1_000);
    expect({ ok, output }).toEqual({ ok: false, output: "It was still running after 1000 ms." });
  });

  it("reports the file and the line of a type error", async () => {
    const { ok, output } = await checkTypes(programOf(`\nconst id: number = Keyring.generate().primary;`).folder);
    expect(ok).toBe(false);
    expect(inSources(output)).toMatch(/^packages\/a\/src\/b\.ts:5:7: error TS2322/);
  });
});
