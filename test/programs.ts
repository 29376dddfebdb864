import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { createAdaptorServer } from "@hono/node-server";
import { createApiKey, createKvHandler } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import type { CodeBlock } from "./markdown.ts";
import { findMoto, startMoto } from "./servers/moto.ts";
import { findRedisServers, startRedis } from "./servers/redis.ts";
import { repository } from "./workspace.ts";

/** A program that waits for something that never happens is stopped after this time. A busy machine needs up to a minute. */
const longestRunMs = 150_000;

/** Whether a program succeeded, and what it printed. */
export interface Outcome {
  readonly ok: boolean;
  readonly output: string;
}

function run(
  command: string,
  commandArguments: readonly string[],
  cwd: string,
  environment: Readonly<Record<string, string>> = {},
  limitMs = longestRunMs,
): Promise<Outcome> {
  // A block depends only on its own lines, so of the variables of this process the environment has only those of Node.js.
  const { PATH, NODE_COMPILE_CACHE } = process.env;
  const env = {
    PATH,
    NODE_COMPILE_CACHE,
    APP_ENCRYPTION_KEY: randomBytes(32).toString("base64"),
    NO_COLOR: "1",
    ...environment,
  };
  return new Promise((resolve) => {
    execFile(
      command,
      commandArguments,
      { cwd, env, timeout: limitMs, killSignal: "SIGKILL" },
      (error, stdout, stderr) => {
        const ending = error?.killed === true ? `\nIt was still running after ${limitMs} ms.` : "";
        resolve({ ok: error === null, output: `${stdout}${stderr}${ending}`.trim() });
      },
    );
  });
}

/** A program made of code in a page or a docstring. Its lines have the numbers that they have in that file. */
export interface Program {
  readonly place: string;
  readonly path: string;
  /** The servers that the program connects to. */
  readonly needs: readonly Needed[];
}

/** A running server for the programs, or the reason why there is none. */
type Served =
  | { readonly environment: Readonly<Record<string, string>>; stop(): Promise<void>; readonly missing?: undefined }
  | { readonly missing: string };

/** A server that some programs connect to. */
interface Needed {
  /** A text that a program contains only if it needs the server. */
  readonly sign: string;
  start(): Promise<Served>;
}

const needed: readonly Needed[] = [
  {
    sign: "REDIS_URL",
    async start() {
      const servers = await findRedisServers({ anyWillDo: true });
      if (servers.missing !== undefined) return servers;
      const node = await startRedis(servers);
      return { environment: { REDIS_URL: node.url }, stop: () => node.stop() };
    },
  },
  {
    sign: "@keyward/keys-aws",
    async start() {
      const servers = await findMoto({ anyWillDo: true });
      if (servers.missing !== undefined) return servers;
      const server = await startMoto(servers);
      const environment = {
        AWS_ENDPOINT_URL: server.endpoint,
        AWS_REGION: "eu-central-1",
        AWS_ACCESS_KEY_ID: "documentation",
        AWS_SECRET_ACCESS_KEY: "documentation",
      };
      return { environment, stop: () => server.stop() };
    },
  },
  {
    sign: "KV_URL",
    async start() {
      const { apiKey, entry } = createApiKey({ tenant: "acme" });
      const fetch = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
      const server = createAdaptorServer({ fetch, hostname: "127.0.0.1" });
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const address = server.address();
      const port = typeof address === "object" ? address?.port : undefined;
      return {
        environment: { KV_URL: `http://127.0.0.1:${port}`, KV_API_KEY: apiKey },
        async stop() {
          server.close();
          await once(server, "close");
        },
      };
    },
  },
];

/** The servers that programs connect to, each started once. */
export class Servers {
  readonly #served = new Map<Needed, Served>();

  /** Starts the servers that these programs need. The servers may have to be installed first, so allow ten minutes. */
  async start(programs: readonly Program[]): Promise<void> {
    for (const { needs } of programs) {
      for (const need of needs) if (!this.#served.has(need)) this.#served.set(need, await need.start());
    }
  }

  /** Returns the environment variables of a program, and the reasons why it lacks a server. */
  of({ needs }: Program): { readonly environment: Readonly<Record<string, string>>; readonly missing: string[] } {
    const environment: Record<string, string> = {};
    const missing: string[] = [];
    for (const need of needs) {
      const server = this.#served.get(need);
      if (server?.missing === undefined) Object.assign(environment, server?.environment);
      else missing.push(server.missing);
    }
    return { environment, missing };
  }

  async stop(): Promise<void> {
    for (const server of this.#served.values()) if (server.missing === undefined) await server.stop();
  }
}

/** Writes a program whose code begins at a line of a file of this repository into `folder`. */
export function writeProgram(folder: string, file: string, line: number, code: string): Program {
  const path = join(folder, `${file.replaceAll("/", "__")}__line-${line}.ts`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, code);
  return { place: `${file}:${line}`, path, needs: needed.filter(({ sign }) => code.includes(sign)) };
}

/** Joins the blocks of a program so that each of their lines has the number that it has in its file. */
export function linesInPlace(blocks: readonly CodeBlock[]): string {
  const lines: string[] = [];
  for (const { line, code } of blocks) {
    while (lines.length < line - 1) lines.push("");
    lines.push(...code.split("\n"));
  }
  return `${lines.join("\n")}\n`;
}

/** Runs a program in an empty folder outside of this repository, for at most `limitMs`. */
export async function runProgram(
  { path }: Program,
  environment: Readonly<Record<string, string>> = {},
  limitMs = longestRunMs,
): Promise<Outcome> {
  const cwd = mkdtempSync(join(tmpdir(), "keyward-documentation-"));
  try {
    return await run(process.execPath, [path], cwd, environment, limitMs);
  } finally {
    rmSync(cwd, { recursive: true, force: true });
  }
}

/** Checks the types of all programs in a folder. */
export function checkTypes(folder: string): Promise<Outcome> {
  const configuration = {
    extends: relative(folder, join(repository, "tsconfig.base.json")),
    // An example may name results that it does not use.
    compilerOptions: {
      noEmit: true,
      composite: false,
      declaration: false,
      sourceMap: false,
      inlineSources: false,
      noUnusedLocals: false,
      // The types of Hono's server name types of the DOM, which Node.js does not have.
      skipLibCheck: true,
    },
    include: ["*.ts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(configuration));
  return run(join(repository, "node_modules", ".bin", "tsc"), ["-p", folder, "--pretty", "false"], folder);
}

/** Creates a folder that git ignores, and in which imports resolve as in the workspace. */
export function scratch(): string {
  const parent = join(repository, ".test-output");
  mkdirSync(parent, { recursive: true });
  return mkdtempSync(join(parent, "documentation-"));
}
