import { constants, existsSync, type FSWatcher, watch } from "node:fs";
import { lstat, open, readdir, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KeywardError, type OptionNames, requireAmount, systemCode } from "@keyward/core";
import { invalidKey, trim } from "./notation.ts";

/**
 * The content of a mount: nothing, the text of a file, or the texts of the files in a directory. White space at both
 * ends of each text is removed.
 */
export type MountContent =
  | { readonly kind: "missing" }
  | { readonly kind: "file"; readonly text: string }
  | { readonly kind: "directory"; readonly files: ReadonlyMap<string, string> };

/** Options that control how a mounted file or directory is watched for changes. */
export interface MountOptions {
  /**
   * How often the path is checked for changes, in milliseconds between 10 and 2^31-1. Events of the file system report
   * changes sooner, but network and bind mounts send no events. Default: 2,000.
   */
  readonly pollMs?: number;
}

/**
 * Names of all options in {@link MountOptions}. A provider adds its own option names, and refuses options with any
 * other name.
 */
export const mountOptionNames: OptionNames<MountOptions> = { pollMs: true };

const maxBytes = 1024 * 1024;
const maxReads = 50;
const settleMs = 100;

/**
 * A mounted file, or a mounted directory of files. In a directory, files whose names begin with a dot are ignored,
 * because Kubernetes adds such files (`..data`).
 */
export class Mount {
  readonly #path: string;
  readonly #name: string;
  readonly #pollMs: number;
  #fingerprint: Promise<string> | undefined;

  /** @param name Text that errors show instead of the path, because the path may be a key that was pasted by mistake. */
  constructor(path: string, name: string, options: MountOptions) {
    this.#path = path;
    this.#name = name;
    this.#pollMs = requirePollMs(options);
  }

  /**
   * Returns the current content of the file or directory. Reads the content until two reads in a row give the same
   * result. So the result never mixes the files of a directory before and after an update.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the mount cannot be read, `KEY_INVALID` if a file in it is not UTF-8
   * text or is too large.
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
    throw this.#unavailable(`kept changing while it was read ${maxReads} times`);
  }

  /**
   * Calls `changed` after each change of the file or directory. Returns a function that ends the subscription. A
   * subscription does not keep the process running.
   */
  subscribe(changed: () => void): () => void {
    // A change since the last load began is reported as well, although the mount was not watched then.
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
      files.set(
        name,
        await readText(
          join(this.#path, name),
          source,
          "Remove everything from the directory except the files with keys and the file `primary`.",
        ),
      );
    }
    return { kind: "directory", files };
  }

  #unavailable(problem: string): KeywardError {
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#name} ${problem}`, {
      hint: "Check that the secret is mounted at this path, and that the user of this process may read the secret. Do not make the secret readable for other users.",
    });
  }
}

/**
 * Returns `pollMs` or its default, in milliseconds.
 *
 * @throws KeywardError `VALUE_INVALID` if `pollMs` is not between 10 and 2^31-1.
 */
export function requirePollMs({ pollMs = 2_000 }: MountOptions): number {
  return requireAmount("pollMs", pollMs, "milliseconds", { least: 10, most: 2 ** 31 - 1 });
}

/**
 * Returns the words that name a path in errors. The path may be a key that was passed by mistake. So these words
 * contain the path only if the path or one of its folders exists, or if the path begins with `./` or `../`, because no
 * key begins with these characters.
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

/** Returns true if a path exists. A link without a target counts as existing, so that reading the link reports an error. */
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

/**
 * Reads a regular file of UTF-8 text, without the white space at both ends.
 *
 * @param hint Hint of the error for a path that is not a regular file.
 */
async function readText(path: string, name: string, hint: string): Promise<string> {
  // Without O_NONBLOCK, opening a pipe that has no writer never returns.
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
    // The bytes may be a key.
    bytes.fill(0);
  }
}

function adviceOnBytes(bytes: Buffer): string {
  const [first, second] = bytes;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    return "The file is in UTF-16. Save the file as UTF-8 without a byte order mark.";
  }
  return "If the file holds the raw bytes of a key, encode them in base64: `base64 < file`.";
}

/**
 * Returns a text that identifies the state of a file or directory. The text changes if the file or directory is replaced,
 * rewritten or removed, and if a file is added to the directory or removed from it.
 */
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
 * Watches a mount by the events of the file system and by a check every `pollMs`. The events report changes sooner, but
 * some file systems send none. Calls `changed` at most once in `settleMs`.
 *
 * @param known Fingerprint of the mount at the last load. A mount that differs from it has changed.
 */
function watchMount(path: string, pollMs: number, known: Promise<string>, changed: () => void): () => void {
  let ended = false;
  let watcher: FSWatcher | undefined;
  let timer: NodeJS.Timeout | undefined;
  let event = false;
  let checking = false;
  let seen = known;

  function checkIn(delayMs: number): void {
    clearTimeout(timer);
    timer = setTimeout(check, delayMs).unref();
  }

  function onEvent(): void {
    // A check in progress handles the event when it finishes.
    if (!event && !checking && !ended) checkIn(settleMs);
    event = true;
  }

  async function check(): Promise<void> {
    checking = true;
    // The watcher is started first, so that a change after the fingerprint causes an event.
    watcher ??= await startWatcher(path, onEvent);
    const now = fingerprint(path);
    const differs = (await seen) !== (await now);
    checking = false;
    if (ended) {
      watcher?.close();
      return;
    }
    if (!event && !differs) {
      checkIn(pollMs);
      return;
    }
    event = false;
    seen = now;
    // The watched directory may have been replaced, so the new one needs a new watcher.
    watcher?.close();
    watcher = undefined;
    checkIn(settleMs);
    changed();
  }

  void check();
  return () => {
    ended = true;
    clearTimeout(timer);
    watcher?.close();
  };
}

/**
 * Watches a directory, or the directory that contains a file. A watcher on the file itself would keep watching the old
 * file after another file has replaced it.
 */
async function startWatcher(path: string, changed: () => void): Promise<FSWatcher | undefined> {
  try {
    const directory = (await stat(path)).isDirectory();
    const watcher = watch(directory ? path : dirname(path), { persistent: false }, (_event, name) => {
      // In a Kubernetes mount, the names that change begin with "..".
      if (directory || name === null || name === basename(path) || name.startsWith("..")) changed();
    });
    return watcher.on("error", changed);
  } catch {
    return undefined;
  }
}
