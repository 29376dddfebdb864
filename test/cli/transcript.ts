import { execFile } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { commandEnvironment } from "../command-environment.ts";
import { commandFile } from "../command-files.ts";

const mostBytes = 16 * 1024 * 1024;

/** What a command line printed, before anything is masked. */
export interface Ran {
  readonly commandLine: string;
  readonly printed: string;
  readonly exitCode: number;
}

/**
 * Runs each command line of a transcript, which begins with "$ ", with `sh` in a folder of its own, and returns the
 * transcript with what the command lines print now.
 *
 * @param env the environment variables that the commands see, besides PATH and HOME.
 */
export async function runTranscript(
  text: string,
  env: Readonly<Record<string, string>>,
): Promise<{ readonly transcript: string; readonly ran: readonly Ran[]; readonly files: ReadonlyMap<string, string> }> {
  const root = await realpath(await mkdtemp(join(tmpdir(), "keyward-transcript-")));
  try {
    const folder = join(root, "folder");
    await mkdir(folder);
    await writeExecutables(join(root, "bin"));
    const { PATH = "", ...variablesOfTests } = commandEnvironment({});
    const variables = { ...variablesOfTests, PATH: `${join(root, "bin")}:${PATH}`, HOME: root, ...env };
    const ran: Ran[] = [];
    const parts: string[] = [];
    for (const line of text.split("\n")) {
      // Everything else but a title or a remark is what a command printed before.
      if (line.startsWith("#")) parts.push(`${line}\n`);
      if (!line.startsWith("$ ")) continue;
      const one = await runLine(line.slice(2), folder, variables);
      ran.push(one);
      const end = one.exitCode === 0 ? "" : `[exit code ${one.exitCode}]\n`;
      parts.push(`${line}\n${masked(one.printed, root, Object.values(env))}${end}`);
    }
    return { transcript: parts.join("\n"), ran, files: await filesIn(folder) };
  } finally {
    await rm(root, { recursive: true });
  }
}

async function writeExecutables(folder: string): Promise<void> {
  await mkdir(folder);
  for (const name of ["keyward", "keyward-kv"] as const) {
    const script = `#!/bin/sh\nexec "${process.execPath}" --conditions development "${commandFile(name)}" "$@"\n`;
    await writeFile(join(folder, name), script);
    await chmod(join(folder, name), 0o755);
  }
}

async function runLine(commandLine: string, cwd: string, env: Readonly<Record<string, string>>): Promise<Ran> {
  return await new Promise((resolve) => {
    // One stream, so that the transcript has the lines in their order.
    execFile("sh", ["-c", `{ ${commandLine}\n} 2>&1`], { cwd, env, maxBuffer: mostBytes }, (error, printed) => {
      const exitCode = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ commandLine, printed, exitCode });
    });
  });
}

/** Replaces what differs between two runs: paths, addresses, times, durations, rates, random ids and key material. */
function masked(printed: string, root: string, values: readonly string[]): string {
  let text = printed.replaceAll(root, "/…");
  // The longest first, because one address may contain another.
  for (const value of values.toSorted((one, other) => other.length - one.length)) {
    if (value.length > 3) text = text.replaceAll(value, "(from the environment)");
  }
  return text
    .replace(/\b(127\.0\.0\.1|localhost):\d+/g, "$1:(port)")
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "(time)")
    .replace(/\bkwt_[a-z0-9]+_[a-z0-9]{12}_\w{49}\b/g, "(token)")
    .replace(/\bfirst-tokens-audit\.db-[0-9a-f]{6}\b/g, "first-tokens-audit.db-(random)")
    .replace(/\b20\d\d-\d\d-\d\d-[0-9a-f]{6}\b/g, "(date)-(random)")
    .replace(/\b20\d\d-\d\d-\d\d\b/g, "(date)")
    .replace(/("\w*(?:Ms|PerSecond)":)\d+(\.\d+)?/g, "$1(number)")
    .replace(/(?<= {2}|begun |began |again in |seen |wait )\d+(?:ms|s|m|h|d)\b(?: \d+(?:ms|s|m|h)\b)?/g, "(duration)")
    .replace(/\b\d+ per second/g, "(rate) per second")
    .replace(/"id":"[\w-]{12}"/g, '"id":"(id)"')
    .replace(
      /(?<=^|\bid |^note +)[a-z0-9]{12}(?=[ )/])|(?<=\/)[a-z0-9]{12}(?=\/\d)|(?<= {2})[a-z0-9]{12}(?= {2}\(date\))/gm,
      "(id)",
    )
    .replace(/\bused \d+(?:ms|s|m) ago/g, "used (duration) ago")
    .replace(/[\w+/]{43}=/g, "(base64)")
    .replace(/\b[0-9a-f]{64}\b/g, "(hex)")
    .replace(/(\w+):[0-9a-f]{8}\b/g, "$1:(fingerprint)")
    .replace(/((?:^| )[a-z]\w* +\S+ +)[\w-]{12}( +\d+ )/gm, "$1(id)$2");
}

async function filesIn(folder: string): Promise<ReadonlyMap<string, string>> {
  const files = new Map<string, string>();
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile()) files.set(path, await readFile(path, "latin1"));
  }
  return files;
}
