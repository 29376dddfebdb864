import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import {
  EncryptedStore,
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  planRotation,
  retireKey,
  revokeKey,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { publish } from "../../../test/servers/kubernetes-mount.ts";
import { envKeys, type FileKeysOptions, fileKeys } from "../src/index.ts";
import { leak, rejection, secretsIn, shown } from "./shown.ts";

const workspace = fileURLToPath(new URL("../../..", import.meta.url));
const run = promisify(execFile);
const key = () => randomBytes(32).toString("base64");
const ringOf = (keys: Record<string, string>, primary?: string) =>
  exportKeyring(
    Keyring.fromKeys(
      Object.entries(keys).map(([id, value]) => ({ id, material: Buffer.from(value, "base64") })),
      primary,
    ),
  );

let root: string;
let ends: (() => void)[];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "keyward-files-"));
  ends = [];
});

afterEach(async () => {
  for (const end of ends) end();
  await rm(root, { recursive: true, force: true });
});

/** Uses a provider as core does: loads the keyring now and after each reported change, and keeps the last valid keyring. */
function follow(path: string, options: FileKeysOptions = {}) {
  const provider = fileKeys(path, options);
  const following = { calls: 0, ring: "", failures: [] as unknown[], provider };
  const load = () =>
    provider.load().then(
      (ring) => {
        following.ring = ring.primary === "" ? "" : exportKeyring(ring);
      },
      (error: unknown) => following.failures.push(error),
    );
  const end = provider.subscribe?.(() => {
    following.calls++;
    void load();
  });
  if (end !== undefined) ends.push(end);
  return load().then(() => following);
}

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 20_000, interval: 10 });
}

/** Replaces a file by renaming a new one over it. */
async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.next`, text);
  await rename(`${path}.next`, path);
}

describe("a key that is passed as the path", () => {
  const bytes = randomBytes(32);
  // A slash turns a key into a path, with directories that do not exist.
  const slashed = `${bytes.toString("base64url").slice(0, 20)}/${bytes.toString("base64url").slice(21)}`;
  it.each([
    ["base64", bytes.toString("base64")],
    ["base64 with a slash", slashed],
    ["base64url", bytes.toString("base64url")],
    ["hex", `hex:${bytes.toString("hex")}`],
    ["a key with an id", `2026-11=${bytes.toString("base64")}`],
    ["a passphrase", `passphrase:${bytes.toString("base64url")}`],
    ["a document", exportKeyring(Keyring.fromKeys([{ material: bytes }]))],
  ])("does not appear in any error or warning: %s", async (_name, path) => {
    const warn = vi.fn();
    const ring = Keyring.generate();
    const reported = [
      await rejection(fileKeys(path).load()),
      await rejection(Promise.resolve(fileKeys(path).save(ring.add(), ring))),
    ];
    for (const whenMissing of ["generate", "plaintext"] as const) {
      await fileKeys(path, { whenMissing, warn })
        .load()
        .catch((error: unknown) => reported.push(error));
    }
    reported.push(...warn.mock.calls.flat());
    for (const one of reported) {
      const texts = [shown(one), one instanceof Error ? shown(one.cause) : ""].join(" ");
      for (const secret of secretsIn(path)) expect(leak(texts, secret)).toBeUndefined();
    }
    for (const error of reported.slice(0, 2)) expect(error).toBeInstanceOf(KeywardError);
  });

  it.each([
    ["package.json", 'The path "package.json" in folder'],
    ["./no-keyring.json", 'The path "./no-keyring.json" in folder'],
    ["../no-keyring.json", 'The path "../no-keyring.json" in folder'],
    ["packages/no-keyring.json", 'The path "packages/no-keyring.json" in folder'],
    ["no-keyring.json", "The path given in folder"],
  ])(
    "is hidden in errors, which show only relative paths and the paths of existing files or folders: %s is shown as %j",
    async (path, named) => {
      expect(await rejection(fileKeys(path).load())).toMatchObject({
        message: expect.stringContaining(`${named} ${JSON.stringify(process.cwd())}`),
      });
    },
  );
});

it.each([undefined, null, 5, "", new URL("file:///keys")])("fileKeys refuses %j as a path", (given) => {
  expect(() => Reflect.apply(fileKeys, undefined, [given])).toThrow(
    expect.objectContaining({ name: "KeywardError", code: "VALUE_INVALID" }),
  );
});

describe("a file that fileKeys reads", () => {
  it("may hold a key or a keyring document", async () => {
    const path = join(root, "key");
    const value = key();
    await writeFile(path, `a=${value}\n`);
    expect(exportKeyring(await fileKeys(path).load())).toBe(ringOf({ a: value }));
    const document = exportKeyring(Keyring.generate().add());
    await writeFile(path, `${document}\n`);
    expect(exportKeyring(await fileKeys(path).load())).toBe(document);
  });

  it.each([
    ["no text", "", "KEY_INVALID", "0 characters"],
    ["a cut key", key().slice(4), "KEY_INVALID", "40 characters"],
    ["bytes that are not text", Buffer.concat([Buffer.of(0xff), randomBytes(31)]), "KEY_INVALID", "32 bytes found"],
    ["a cut document", exportKeyring(Keyring.generate()).slice(0, -20), "KEYRING_INVALID", "not JSON"],
    ["more than 1 MiB", "A".repeat(2 ** 20 + 1), "KEY_INVALID", "1048577 bytes"],
  ])("is refused with an error that names its path if the file holds %s", async (_name, content, code, found) => {
    const path = join(root, "key");
    await writeFile(path, content);
    const error = await rejection(fileKeys(path, { whenMissing: "plaintext", warn: () => {} }).load());
    expect(error).toBeInstanceOf(KeywardError);
    expect(error).toMatchObject({ code, message: expect.stringContaining(path) });
    expect(String(error)).toContain(found);
    for (const secret of secretsIn(content.toString())) expect(leak(shown(error), secret)).toBeUndefined();
  });

  it("is refused at once if it is a pipe, or a link without a target", async () => {
    await run("mkfifo", [join(root, "pipe")]);
    expect(await rejection(fileKeys(join(root, "pipe")).load())).toMatchObject({ code: "KEY_INVALID" });
    await symlink(join(root, "nothing"), join(root, "link"));
    const dangling = fileKeys(join(root, "link"), { whenMissing: "plaintext", warn: () => {} });
    expect(await rejection(dangling.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it("is reloaded each time it is replaced or rewritten", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    // The path is polled so rarely that only the file system's events can report the change.
    const following = await follow(path, { pollMs: 2 ** 31 - 1 });
    for (const write of [replace, writeFile, replace, writeFile, writeFile]) {
      const value = key();
      await write(path, `a=${value}`);
      await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    }
  });

  it("does not replace the keyring in use while the file holds only half of a new key", async () => {
    const path = join(root, "key");
    const [old, next] = [key(), key()];
    await writeFile(path, `a=${old}`);
    const following = await follow(path);
    await writeFile(path, `a=${next.slice(0, 20)}`);
    await until(() => expect(following.failures.at(-1)).toMatchObject({ code: "KEY_INVALID" }));
    expect(following.ring).toBe(ringOf({ a: old }));
    await writeFile(path, next.slice(20), { flag: "a" });
    await until(() => expect(following.ring).toBe(ringOf({ a: next })));
  });

  it("is reported as changed if it changes after the load and before the subscription", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    const provider = fileKeys(path, { pollMs: 2 ** 31 - 1 });
    await provider.load();
    await replace(path, `a=${key()}`);
    const changed = vi.fn();
    ends.push(provider.subscribe?.(changed) ?? (() => {}));
    await until(() => expect(changed).toHaveBeenCalled());
  });

  it("is reloaded after a change, even if other files in its folder have changed just before", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    const following = await follow(path, { pollMs: 20 });
    for (let number = 0; number < 5; number++) await writeFile(join(root, `neighbour-${number}`), "");
    const value = key();
    await replace(path, `a=${value}`);
    await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    expect(following.failures).toEqual([]);
  });

  it("is reported as changed at most once in 100 ms if it keeps changing", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    const following = await follow(path, { pollMs: 10 });
    const startedAtMs = performance.now();
    let value = "";
    for (let writes = 0; writes < 300; writes++) {
      value = key();
      await replace(path, `a=${value}`);
    }
    await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    // One call each 100 ms, and one more at the start and at the end.
    expect(following.calls).toBeLessThanOrEqual((performance.now() - startedAtMs) / 100 + 2);
  });
});

describe("a directory that fileKeys reads", () => {
  it("provides one key from each file, and the primary key is the key that the file 'primary' names", async () => {
    const [a, b] = [key(), key()];
    await writeFile(join(root, "a"), a);
    await writeFile(join(root, "2026-11"), `hex:${Buffer.from(b, "base64").toString("hex")}\n`);
    await writeFile(join(root, "primary"), "2026-11\n");
    await writeFile(join(root, ".hidden"), "not a key");
    expect(exportKeyring(await fileKeys(root).load())).toBe(ringOf({ "2026-11": b, a }));
  });

  it.each([
    ["no file primary", { a: key() }, "KEYRING_INVALID"],
    ["the id of a missing key in the file primary", { a: key(), primary: "b" }, "KEYRING_INVALID"],
    ["a key in the file primary", { a: key(), primary: key() }, "KEYRING_INVALID"],
    ["only the file primary", { primary: "primary" }, "KEYRING_INVALID"],
    ["a file whose name is not a key id", { a: key(), "b.txt": key(), primary: "a" }, "KEY_INVALID"],
    ["a cut key", { a: key(), b: key().slice(4), primary: "a" }, "KEY_INVALID"],
    ["an id in the file of a key", { a: key(), b: `b=${key()}`, primary: "a" }, "KEY_INVALID"],
    ["a keyring document in the file of a key", { a: exportKeyring(Keyring.generate()), primary: "a" }, "KEY_INVALID"],
  ])("is refused if it contains %s", async (_name, files: Record<string, string>, code) => {
    for (const [name, text] of Object.entries(files)) await writeFile(join(root, name), text);
    const error = await rejection(fileKeys(root).load());
    expect(error).toMatchObject({ code, message: expect.stringContaining(root) });
    for (const secret of Object.values(files).flatMap(secretsIn)) {
      expect(leak(shown(error), secret)).toBeUndefined();
    }
  });

  it("is refused if it contains another directory, or the same key in two files", async () => {
    const a = key();
    for (const [name, text] of Object.entries({ a, b: a, primary: "a" })) await writeFile(join(root, name), text);
    expect(await rejection(fileKeys(root).load())).toMatchObject({ code: "KEYRING_INVALID" });
    await rm(join(root, "b"));
    await mkdir(join(root, "b"));
    expect(await rejection(fileKeys(root).load())).toMatchObject({ code: "KEY_INVALID" });
  });

  it("is refused with an error that names lost+found if it contains a folder lost+found", async () => {
    const path = join(root, "volume");
    await mkdir(join(path, "lost+found"), { recursive: true });
    const error = await rejection(fileKeys(path).load());
    expect(error).toMatchObject({ code: "KEY_INVALID", message: expect.stringContaining("lost+found") });
    expect(error).toMatchObject({
      hint: expect.stringContaining("Remove everything from the directory except the files with keys"),
    });
  });

  it("is reloaded each time that Kubernetes updates it", async () => {
    const mount = join(root, "mount");
    const [a, b, c] = [key(), key(), key()];
    await publish(mount, { a, primary: "a" });
    const following = await follow(mount, { pollMs: 2 ** 31 - 1 });
    expect(following.ring).toBe(ringOf({ a }));
    await publish(mount, { a, b, primary: "a" });
    await until(() => expect(following.ring).toBe(ringOf({ a, b })));
    await publish(mount, { a, b, primary: "b" });
    await until(() => expect(following.ring).toBe(ringOf({ b, a })));
    await publish(mount, { b, primary: "b" });
    await until(() => expect(following.ring).toBe(ringOf({ b })));
    await publish(mount, { b: c, primary: "b" });
    await until(() => expect(following.ring).toBe(ringOf({ b: c })));
  });

  it("may contain a file whose path is passed to fileKeys, and the file is reloaded each time that Kubernetes updates it", async () => {
    const mount = join(root, "mount");
    await publish(mount, { ring: `a=${key()}` });
    const following = await follow(join(mount, "ring"), { pollMs: 2 ** 31 - 1 });
    for (let swaps = 0; swaps < 3; swaps++) {
      const value = key();
      await publish(mount, { ring: `a=${value}` });
      await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    }
  });

  it("is reloaded when another directory replaces it, and after changes in the new directory", async () => {
    const mount = join(root, "mount");
    const [a, b, c] = [key(), key(), key()];
    for (const [name, value] of Object.entries({ mount: a, other: b })) {
      await mkdir(join(root, name));
      await writeFile(join(root, name, "k"), value);
      await writeFile(join(root, name, "primary"), "k");
    }
    const following = await follow(mount, { pollMs: 2 ** 31 - 1 });
    await rename(mount, join(root, "old"));
    await rename(join(root, "other"), mount);
    await until(() => expect(following.ring).toBe(ringOf({ k: b })));
    // After a change, the mount is checked once more. Only after that does an event of the new directory report a change.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await replace(join(mount, "k"), c);
    await until(() => expect(following.ring).toBe(ringOf({ k: c })));
  });

  it("never provides a keyring with files of two different updates", async () => {
    const mount = join(root, "mount");
    const states = new Set<string>();
    const newState = () => {
      const [one, two, three] = [key(), key(), key()];
      states.add(ringOf({ x: one, y: two, z: three }));
      return { x: one, y: two, z: three, primary: "x" };
    };
    await publish(mount, newState());
    const provider = fileKeys(mount);
    let swapping = true;
    const swaps = (async () => {
      for (let swap = 0; swap < 150; swap++) await publish(mount, newState());
      swapping = false;
    })();
    let loads = 0;
    while (swapping) {
      const outcome = await provider.load().then(exportKeyring, (error: unknown) => error);
      if (typeof outcome === "string") {
        loads++;
        expect(states.has(outcome)).toBe(true);
      } else {
        expect(outcome).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      }
    }
    await swaps;
    expect(loads).toBeGreaterThan(0);
  });
});

describe("a mounted file or directory that disappears", () => {
  it.each([
    ["a poll every 25 ms", 25],
    ["the default poll interval", 2_000],
  ])("is reloaded when it returns, and after later changes: %s", async (_name, pollMs) => {
    const mount = join(root, "parent", "mount");
    const [a, b, c] = [key(), key(), key()];
    await publish(mount, { a, primary: "a" });
    const following = await follow(mount, { pollMs, whenMissing: "plaintext", warn: () => {} });
    await rename(join(root, "parent"), join(root, "away"));
    await until(() => expect(following.failures.at(-1)).toMatchObject({ code: "PROVIDER_UNAVAILABLE" }));
    expect(following.ring).toBe(ringOf({ a }));
    await publish(mount, { a, b, primary: "a" });
    await until(() => expect(following.ring).toBe(ringOf({ a, b })));
    await publish(mount, { b, c, primary: "c" });
    await until(() => expect(following.ring).toBe(ringOf({ c, b })));
  });

  it("is reported as changed when the same file returns", async () => {
    const path = join(root, "key");
    await writeFile(path, key());
    const following = await follow(path, { pollMs: 25 });
    await rename(path, `${path}.away`);
    await until(() => expect(following.failures).not.toEqual([]));
    const calls = following.calls;
    await rename(`${path}.away`, path);
    await until(() => expect(following.calls).toBeGreaterThan(calls));
  });

  it.each(["error", "generate", "plaintext"] as const)(
    "makes load reject, even if whenMissing is %s",
    async (whenMissing) => {
      const path = join(root, "mount", "key");
      await mkdir(join(root, "mount"));
      await writeFile(path, key());
      const provider = fileKeys(path, { whenMissing, warn: () => {} });
      await provider.load();
      await rm(join(root, "mount"), { recursive: true });
      expect(await rejection(provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    },
  );
});

describe("the option whenMissing of fileKeys", () => {
  it("applies to a path that does not exist, and to an empty directory", async () => {
    for (const path of [join(root, "nothing", "here"), root]) {
      expect(await rejection(fileKeys(path).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      const warn = vi.fn();
      const generating = fileKeys(path, { whenMissing: "generate", warn });
      expect(exportKeyring(await generating.load())).toBe(exportKeyring(await generating.load()));
      expect((await fileKeys(path, { whenMissing: "plaintext", warn }).load()).keys).toEqual([]);
      expect(warn.mock.calls.map(([, code]) => code)).toEqual(["KEYWARD_KEY_GENERATED", "KEYWARD_PLAINTEXT"]);
    }
  });

  it('"generate" and "plaintext" are refused in production unless dangerouslyAllowInProduction is true', async () => {
    vi.stubEnv("NODE_ENV", "production");
    try {
      const path = join(root, "nothing");
      for (const whenMissing of ["generate", "plaintext"] as const) {
        const options = { whenMissing, warn: () => {} };
        expect(await rejection(fileKeys(path, options).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
        await fileKeys(path, { ...options, dangerouslyAllowInProduction: true }).load();
      }
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('"plaintext" no longer applies after a first key is mounted, even if the key is removed', async () => {
    const path = join(root, "key");
    const following = await follow(path, { pollMs: 25, whenMissing: "plaintext", warn: () => {} });
    const value = key();
    await replace(path, `a=${value}`);
    await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    await rm(path);
    expect(await rejection(following.provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });
});

describe("create() of fileKeys", () => {
  it("writes the first keyring into a file that only its owner can read, and does not write a second keyring", async () => {
    const path = join(root, "first.keyring");
    const ring = Keyring.generate();
    await fileKeys(path).create(ring);
    expect(exportKeyring(await fileKeys(path).load())).toBe(exportKeyring(ring));
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const second = Promise.resolve(fileKeys(path).create(Keyring.generate()));
    expect(await rejection(second)).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect(exportKeyring(await fileKeys(path).load())).toBe(exportKeyring(ring));
  });

  it("succeeds for only one of several concurrent calls, and refuses a keyring that cannot be saved", async () => {
    const path = join(root, "first.keyring");
    const rings = Array.from({ length: 6 }, () => Keyring.generate());
    const outcomes = await Promise.allSettled(rings.map(async (ring) => fileKeys(path).create(ring)));
    const winners = rings.filter((_, index) => outcomes[index]?.status === "fulfilled");
    expect(winners.map(exportKeyring)).toEqual([exportKeyring(await fileKeys(path).load())]);
    const scoped = Keyring.generate().scope("other");
    const refused = Promise.resolve(fileKeys(join(root, "scoped")).create?.(scoped));
    expect(await rejection(refused)).toMatchObject({ code: "KEYRING_INVALID" });
  });
});

describe("save() of fileKeys", () => {
  async function openDocument() {
    const path = join(root, "ring.json");
    await writeFile(path, exportKeyring(Keyring.generate("a")), { mode: 0o640 });
    const provider = fileKeys(path);
    return { path, provider, ring: await provider.load() };
  }

  function save(provider: KeyProvider, next: Keyring, previous: Keyring): Promise<void> {
    if (provider.save === undefined) throw new Error("expected a provider that saves");
    return provider.save(next, previous);
  }

  it("replaces the target of a link, and keeps the file mode of the target", async () => {
    const { path, ring } = await openDocument();
    await chmod(path, 0o604);
    await mkdir(join(root, "links"));
    await symlink(path, join(root, "links", "ring"));
    const linked = fileKeys(join(root, "links", "ring"));
    await save(linked, ring.add({ id: "b" }), ring);
    expect(await readFile(path, "utf8")).toBe(`${exportKeyring(await linked.load())}\n`);
    expect((await linked.load()).keys.map(({ id }) => id)).toEqual(["a", "b"]);
    expect((await stat(path)).mode & 0o777).toBe(0o604);
    expect(await readdir(join(root, "links"))).toEqual(["ring"]);
    expect((await readdir(root)).sort()).toEqual(["links", "ring.json", "ring.json.lock"]);
  });

  it("loses no change of four processes that save at the same time", async () => {
    const { path } = await openDocument();
    const script = `
      import { envKeys, fileKeys } from "@keyward/keys-env";
      const keys = fileKeys(process.env.RING);
      for (let saved = 0; saved < 10; ) {
        const ring = await keys.load();
        try {
          await keys.save(ring.add(), ring);
          saved++;
        } catch (error) {
          if (error.code !== "KEYRING_CONFLICT") throw error;
        }
      }
    `;
    const argument = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", script];
    const options = { cwd: workspace, env: { ...process.env, RING: path } };
    await Promise.all(Array.from({ length: 4 }, () => run(process.execPath, argument, options)));
    const ring = await fileKeys(path).load();
    expect(ring.keys).toHaveLength(41);
    expect(ring.generation).toBe(41);
  });

  it("waits while another process holds the lock, and succeeds after that process is killed", async () => {
    const { path, provider, ring } = await openDocument();
    const holder: ChildProcess = spawn(
      process.execPath,
      [
        "--input-type=module",
        "--eval",
        `import { DatabaseSync } from "node:sqlite";
         const database = new DatabaseSync(process.env.LOCK);
         database.exec("BEGIN EXCLUSIVE");
         console.log("held");
         setInterval(() => database, 1000);`,
      ],
      { env: { ...process.env, LOCK: `${path}.lock` }, stdio: ["ignore", "pipe", "ignore"] },
    );
    const exited = once(holder, "exit");
    try {
      if (holder.stdout === null) throw new Error("expected the output of the holder");
      await once(holder.stdout, "data");
      await writeFile(`${path}.new`, "left by a killed process");
      const waiting = vi.fn();
      const saved = save(provider, ring.add({ id: "b" }), ring).finally(waiting);
      await new Promise((resolve) => setTimeout(resolve, 200));
      expect(waiting).not.toHaveBeenCalled();
      holder.kill("SIGKILL");
      await saved;
    } finally {
      holder.kill("SIGKILL");
      await exited;
    }
    expect((await provider.load()).keys.map(({ id }) => id)).toEqual(["a", "b"]);
    expect((await stat(path)).mode & 0o777).toBe(0o640);
  });

  it("rejects with KEYRING_INVALID, PROVIDER_UNAVAILABLE or PROVIDER_READ_ONLY, depending on why the keyring cannot be saved", async () => {
    const { path, provider, ring } = await openDocument();
    expect(await rejection(save(provider, ring.scope("x"), ring))).toMatchObject({ code: "KEYRING_INVALID" });
    expect(await rejection(save(provider, Keyring.dangerouslyPlaintext(), ring))).toMatchObject({
      code: "KEYRING_INVALID",
    });
    await writeFile(path, "");
    expect(await rejection(save(provider, ring.add(), ring))).toMatchObject({ code: "KEYRING_INVALID" });
    await rm(path);
    expect(await rejection(save(provider, ring.add(), ring))).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    const single = join(root, "single");
    await writeFile(single, key());
    await mkdir(join(root, "directory"));
    for (const other of [single, join(root, "directory")]) {
      expect(await rejection(save(fileKeys(other), ring.add(), ring))).toMatchObject({ code: "PROVIDER_READ_ONLY" });
    }
    expect(await readFile(single, "utf8")).toHaveLength(44);
    expect((await readdir(root)).sort()).toEqual(["directory", "single"]);
  });
});

describe("a path to which no keyring can be saved", () => {
  /** A directory of keys, as Kubernetes mounts it. */
  async function directory() {
    const path = join(root, "keys");
    await mkdir(path);
    await publish(path, { primary: "b", a: key(), b: key() });
    return path;
  }

  /** A keyring document in a read-only mount, as secrets are mounted; `undefined` if this user may not mount. */
  async function mountedDocument() {
    const path = join(root, "ring.json");
    await writeFile(path, exportKeyring(Keyring.generate("a").add({ id: "b" }).promote("b")));
    const mounted = await run("mount", ["--bind", root, root]).then(
      () => run("mount", ["-o", "remount,bind,ro", root]),
      () => undefined,
    );
    if (mounted !== undefined) ends.push(() => execFileSync("umount", [root]));
    return mounted === undefined ? undefined : path;
  }

  it.each([
    ["a directory", directory],
    ["a document in a read-only mount", mountedDocument],
  ])(
    "makes rotateKey reject before it writes anything, and lets retireKey only check whether the key is in use: %s",
    async (_, open) => {
      const path = await open();
      if (path === undefined) return;
      const keys = fileKeys(path);
      const inner = new MemoryStore();
      const stores = { sessions: new EncryptedStore(inner, { keys }) };
      await stores.sessions.set("key", "value");
      const before = (await inner.reserved().scan()).entries;
      const options = { stores, graceMs: 0, unregistered: { waitMs: 0 } };
      for (const call of [
        () => rotateKey(keys, options),
        () => planRotation(keys, options),
        () => revokeKey(keys, { ...options, id: "a", order: "disable-first" }),
        () => keys.requireWritable(),
      ]) {
        expect(await rejection(call())).toMatchObject({ code: "PROVIDER_READ_ONLY" });
      }
      expect(await rotationStatus(keys, { stores })).toBeUndefined();
      expect((await inner.reserved().scan()).entries).toEqual(before);
      const { keyring: ring, saved } = await retireKey(keys, stores, "a");
      expect(ring.keys.find(({ id }) => id === "a")?.status).toBe("disabled");
      expect(saved).toBe(false);
      expect((await keys.load()).keys.every(({ status }) => status === "enabled")).toBe(true);
      // retireKey still reports why the key cannot be retired.
      expect(
        await rejection(retireKey(keys, { other: new EncryptedStore(new MemoryStore(), { keys }) }, "none")),
      ).toMatchObject({
        code: "KEY_UNKNOWN",
      });
      for (const store of Object.values(stores)) await store.disconnect();
    },
  );

  it("is distinguished from a file with a keyring document, to which retireKey saves", async () => {
    const path = join(root, "ring.json");
    await writeFile(path, exportKeyring(Keyring.generate("a").add({ id: "b" }).promote("b")));
    const keys = fileKeys(path);
    await keys.requireWritable();
    const store = new EncryptedStore(new MemoryStore(), { keys });
    expect(await retireKey(keys, { store }, "a")).toMatchObject({ saved: true });
    expect((await keys.load()).keys.find(({ id }) => id === "a")?.status).toBe("disabled");
    await store.disconnect();
  });
});

it("a subscription does not keep the process running", async () => {
  const path = join(root, "key");
  await writeFile(path, key());
  const script = `
    import { envKeys, fileKeys } from "@keyward/keys-env";
    for (const keys of [fileKeys(process.env.APP_KEY_FILE), envKeys("APP_KEY", { pollMs: 10 })]) {
      await keys.load();
      keys.subscribe(() => {});
    }
    setTimeout(() => console.log("done"), 100);
  `;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: workspace,
    env: { ...process.env, APP_KEY_FILE: path },
    timeout: 50_000,
  });
  expect(stdout).toBe("done\n");
});

it("a subscription makes no further calls after it was ended", async () => {
  const path = join(root, "key");
  await writeFile(path, key());
  const following = await follow(path, { pollMs: 10 });
  await replace(path, key());
  await until(() => expect(following.calls).toBeGreaterThan(0));
  const early = vi.fn();
  fileKeys(path, { pollMs: 10 }).subscribe?.(early)();
  // The subscriptions are ended while a change is pending, and each of them twice.
  await replace(path, key());
  for (const end of [...ends, ...ends]) end();
  const { calls } = following;
  const other = await follow(path, { pollMs: 10 });
  await replace(path, key());
  await until(() => expect(other.calls).toBeGreaterThan(0));
  expect(following.calls).toBe(calls);
  expect(early).not.toHaveBeenCalled();
});

it("no key is shown when a provider is printed", async () => {
  const path = join(root, "key");
  const value = key();
  await writeFile(path, value);
  const provider = fileKeys(path);
  await provider.load();
  expect(leak(shown(provider), value)).toBeUndefined();
});

it.each([0, -1, Number.NaN, 2 ** 31])("fileKeys refuses a pollMs of %d", (pollMs) => {
  expect(() => fileKeys(root, { pollMs })).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
});

it.each<[string, object]>([
  ["a misspelt option", { whenMising: "generate" }],
  ["an unknown value of whenMissing", { whenMissing: "ignore" }],
  ["a pollMs that is not a number", { pollMs: "2000" }],
])("fileKeys and envKeys refuse %s in untyped code", (_name, options) => {
  for (const make of [() => fileKeys(root, options), () => envKeys("APP_KEY", options)]) {
    expect(make).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  }
});
