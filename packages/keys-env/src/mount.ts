import { constants, existsSync, type FSWatcher, watch } from "node:fs";
import { lstat, open, readdir, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KeywardError, type OptionNames, requireAmount, systemCode } from "@keyward/core";
import { invalidKey, trim } from "./notation.ts";

/** What lies at a path, white space at the ends of each text taken off. */
export type MountContent =
  | { readonly kind: "missing" }
  | { readonly kind: "file"; readonly text: string }
  | { readonly kind: "directory"; readonly files: ReadonlyMap<string, string> };

/** How a mounted file or directory is watched. */
export interface MountOptions {
  /**
   * How often the mount is looked at besides the file system's own events, in milliseconds from 10 to 2^31-1: network
   * and bind mounts send no events. Default 2,000.
   */
  readonly pollMs?: number;
}

/** The names of these options, for those that add their own. */
export const mountOptionNames: OptionNames<MountOptions> = { pollMs: true };

const maxBytes = 1024 * 1024;
const maxReads = 50;
const settleMs = 100;

/**
 * A mounted file, or a directory of files. Names that begin with a dot are not looked at: Kubernetes keeps its own
 * there (`..data`).
 */
export class Mount {
  readonly #path: string;
  readonly #name: string;
  readonly #pollMs: number;
  #fingerprint: Promise<string> | undefined;

  /** @param name What errors call it, since the path may have come from where a key was pasted by mistake. */
  constructor(path: string, name: string, options: MountOptions) {
    this.#path = path;
    this.#name = name;
    this.#pollMs = requirePollMs(options);
  }

  /**
   * What lies there now. It is read until two reads in a row agree, so that no directory is seen half in its old and
   * half in its new state.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when it cannot be read, `KEY_INVALID` when it is not text.
   */
  async read(): Promise<MountContent> {
    this.#fingerprint = fingerprint(this.#path);
    await this.#fingerprint;
    let last = await this.#attempt();
    for (let reads = 1; reads < maxReads; reads++) {
      const next = await this.#attempt();
      if (isDeepStrictEqual(next, last)) {
        if (next instanceof KeywardError) throw next;
        return next;
      }
      last = next;
    }
    throw this.#unavailable(`changed all the time while it was read ${maxReads} times`);
  }

  /** Calls `changed` after each change; returns what ends it. Does not keep the process alive. */
  subscribe(changed: () => void): () => void {
    // A change since the last load began counts as one, though nobody was watching then.
    this.#fingerprint ??= fingerprint(this.#path);
    return watchMount(this.#path, this.#pollMs, this.#fingerprint, changed);
  }

  async #attempt(): Promise<MountContent | KeywardError> {
    try {
      return await this.#readOnce();
    } catch (error) {
      if (error instanceof KeywardError) return error;
      return this.#unavailable(`cannot be read (${systemCode(error)})`);
    }
  }

  async #readOnce(): Promise<MountContent> {
    if (!(await exists(this.#path))) return { kind: "missing" };
    if (!(await stat(this.#path)).isDirectory()) {
      return { kind: "file", text: await readText(this.#path, this.#name, "Mount the secret as a file.") };
    }
    const files = new Map<string, string>();
    for (const name of await visibleNames(this.#path)) {
      const source = `${this.#name}, file ${JSON.stringify(name)},`;
      files.set(name, await readText(join(this.#path, name), source, "Take away what is no key: each key is a file."));
    }
    return { kind: "directory", files };
  }

  #unavailable(problem: string): KeywardError {
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#name} ${problem}`, {
      hint: "Check that the secret is mounted there and that the user of this process may read it. Do not open it to other users.",
    });
  }
}

/**
 * How often a mount is looked at.
 *
 * @throws KeywardError `VALUE_INVALID`.
 */
export function requirePollMs({ pollMs = 2_000 }: MountOptions): number {
  return requireAmount("pollMs", pollMs, "milliseconds", { least: 10, most: 2 ** 31 - 1 });
}

/**
 * What errors call a path. It may be a key in the wrong place, so it is repeated only where it exists, some folder of it
 * does, or it begins as no key can.
 */
export function pathForErrors(path: string): string {
  const named = `The path ${JSON.stringify(path)}`;
  const fromHere = isAbsolute(path) ? "" : ` in folder ${JSON.stringify(process.cwd())}`;
  if (/^\.\.?\//.test(path) || (path !== "" && existsSync(path))) return `${named}${fromHere}`;
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder)) {
    if (folder !== "." && existsSync(folder)) return `${named}${fromHere}`;
  }
  return `The path given${fromHere}`;
}

/** False when nothing lies there; a link that leads nowhere is something, and is broken. */
async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false;
    throw error;
  }
}

async function visibleNames(directory: string): Promise<readonly string[]> {
  const names = await readdir(directory);
  return names.filter((name) => !name.startsWith(".")).sort();
}

/** @param hint for what is no regular file. */
async function readText(path: string, name: string, hint: string): Promise<string> {
  // Without O_NONBLOCK, opening a pipe that nobody writes to never comes back.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  let bytes: Buffer;
  try {
    const status = await file.stat();
    const { size } = status;
    if (!status.isFile()) throw invalidKey(name, "it is not a regular file", hint);
    if (size > maxBytes) throw invalidKey(name, `${size} bytes found where at most ${maxBytes} are expected`);
    bytes = await file.readFile();
  } finally {
    await file.close();
  }
  try {
    return trim(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    throw invalidKey(name, `${bytes.length} bytes found that are not UTF-8 text`, adviceOnBytes(bytes));
  } finally {
    // They may be a key.
    bytes.fill(0);
  }
}

function adviceOnBytes(bytes: Buffer): string {
  const [first, second] = bytes;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    return "The file is in UTF-16: save it as UTF-8 without a byte order mark.";
  }
  return "If these are the bytes of a key, write them as base64: `base64 < file`.";
}

/** Changes whenever what lies at the path was replaced, rewritten, added to, or went away. */
async function fingerprint(path: string): Promise<string> {
  try {
    const root = await stat(path, { bigint: true });
    const parts = [path];
    if (root.isDirectory()) parts.push(...(await visibleNames(path)).map((name) => join(path, name)));
    const identities = await Promise.all(parts.map(identity));
    return identities.join("\n");
  } catch (error) {
    return systemCode(error);
  }
}

async function identity(path: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return [path, dev, ino, size, mtimeNs, ctimeNs].join(" ");
}

/**
 * Events of the file system tell at once, where there are any; looking at the mount every now and then is what can be
 * relied on. However many events arrive, `changed` is called at most every `settleMs`.
 */
function watchMount(path: string, pollMs: number, known: Promise<string>, changed: () => void): () => void {
  let ended = false;
  let watcher: FSWatcher | undefined;
  let timer: NodeJS.Timeout | undefined;
  let event = false;
  let looking = false;
  let seen = known;

  function lookIn(delayMs: number): void {
    clearTimeout(timer);
    timer = setTimeout(look, delayMs).unref();
  }

  function onEvent(): void {
    // A look that is under way will find the event when it is done.
    if (!event && !looking && !ended) lookIn(settleMs);
    event = true;
  }

  async function look(): Promise<void> {
    looking = true;
    // The watcher comes first: what changes after the fingerprint then makes an event.
    watcher ??= await startWatcher(path, onEvent);
    const now = fingerprint(path);
    const differs = (await seen) !== (await now);
    looking = false;
    if (ended) {
      watcher?.close();
      return;
    }
    if (!event && !differs) {
      lookIn(pollMs);
      return;
    }
    event = false;
    seen = now;
    // What was watched may be gone, and another thing in its place: watch anew.
    watcher?.close();
    watcher = undefined;
    lookIn(settleMs);
    changed();
  }

  void look();
  return () => {
    ended = true;
    clearTimeout(timer);
    watcher?.close();
  };
}

/** Watches the directory itself, or the one that holds the file: a file's own watcher stays with the file replaced. */
async function startWatcher(path: string, changed: () => void): Promise<FSWatcher | undefined> {
  try {
    const directory = (await stat(path)).isDirectory();
    const watcher = watch(directory ? path : dirname(path), { persistent: false }, (_event, name) => {
      // In a Kubernetes mount it is names beginning with ".." that change.
      if (directory || name === null || name === basename(path) || name.startsWith("..")) changed();
    });
    return watcher.on("error", changed);
  } catch {
    return undefined;
  }
}
