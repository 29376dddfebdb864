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

/** Follows a provider as the core does: loads at first and after each call, and keeps the last good ring. */
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

/** Replaces a file as careful writers do. */
async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.next`, text);
  await rename(`${path}.next`, path);
}

/** Publishes files the way the kubelet does: a new directory, and one link swapped. */
async function publish(mount: string, files: Record<string, string>): Promise<void> {
  const data = `..${randomBytes(6).toString("hex")}`;
  await mkdir(join(mount, data), { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(join(mount, data, name), text);
  const before = await readdir(mount);
  await symlink(data, join(mount, "..data_tmp"));
  await rename(join(mount, "..data_tmp"), join(mount, "..data"));
  for (const name of Object.keys(files)) {
    if (!before.includes(name)) await symlink(join("..data", name), join(mount, name));
  }
  for (const name of before) {
    if (!name.startsWith("..") && !(name in files)) await rm(join(mount, name));
    if (name.startsWith("..") && name !== "..data" && name !== data) await rm(join(mount, name), { recursive: true });
  }
}

describe("a key where the path belongs", () => {
  const bytes = randomBytes(32);
  // Slashes make a path of a key, with directories that are not there.
  const slashed = `${bytes.toString("base64url").slice(0, 20)}/${bytes.toString("base64url").slice(21)}`;
  it.each([
    ["base64", bytes.toString("base64")],
    ["base64 with a slash", slashed],
    ["base64url", bytes.toString("base64url")],
    ["hex", `hex:${bytes.toString("hex")}`],
    ["with an id", `2026-11=${bytes.toString("base64")}`],
    ["a passphrase", `passphrase:${bytes.toString("base64url")}`],
    ["a document", exportKeyring(Keyring.fromKeys([{ material: bytes }]))],
  ])("is never repeated: %s", async (_name, path) => {
    const warn = vi.fn();
    const ring = Keyring.generate();
    const told = [
      await rejection(fileKeys(path).load()),
      await rejection(Promise.resolve(fileKeys(path).save(ring.add(), ring))),
    ];
    for (const whenMissing of ["generate", "plaintext"] as const) {
      await fileKeys(path, { whenMissing, warn })
        .load()
        .catch((error: unknown) => told.push(error));
    }
    told.push(...warn.mock.calls.flat());
    for (const one of told) {
      const texts = [shown(one), one instanceof Error ? shown(one.cause) : ""].join(" ");
      for (const secret of secretsIn(path)) expect(leak(texts, secret)).toBeUndefined();
    }
    for (const error of told.slice(0, 2)) expect(error).toBeInstanceOf(KeywardError);
  });

  it.each([
    ["package.json", 'The path "package.json" in folder'],
    ["./no-keyring.json", 'The path "./no-keyring.json" in folder'],
    ["../no-keyring.json", 'The path "../no-keyring.json" in folder'],
    ["packages/no-keyring.json", 'The path "packages/no-keyring.json" in folder'],
    ["no-keyring.json", "The path given in folder"],
  ])("is not what %s is: errors say which path, and from where", async (path, named) => {
    expect(await rejection(fileKeys(path).load())).toMatchObject({
      message: expect.stringContaining(`${named} ${JSON.stringify(process.cwd())}`),
    });
  });
});

it.each([undefined, null, 5, "", new URL("file:///keys")])("what is no path is refused at once: %j", (given) => {
  expect(() => Reflect.apply(fileKeys, undefined, [given])).toThrow(
    expect.objectContaining({ name: "KeywardError", code: "VALUE_INVALID" }),
  );
});

describe("a file", () => {
  it("holds a key or a document", async () => {
    const path = join(root, "key");
    const value = key();
    await writeFile(path, `a=${value}\n`);
    expect(exportKeyring(await fileKeys(path).load())).toBe(ringOf({ a: value }));
    const document = exportKeyring(Keyring.generate().add());
    await writeFile(path, `${document}\n`);
    expect(exportKeyring(await fileKeys(path).load())).toBe(document);
  });

  it.each([
    ["nothing", "", "KEY_INVALID", "0 characters"],
    ["a cut key", key().slice(4), "KEY_INVALID", "40 characters"],
    ["bytes that are no text", Buffer.concat([Buffer.of(0xff), randomBytes(31)]), "KEY_INVALID", "32 bytes found"],
    ["a cut document", exportKeyring(Keyring.generate()).slice(0, -20), "KEYRING_INVALID", "not JSON"],
    ["too much", "A".repeat(2 ** 20 + 1), "KEY_INVALID", "1048577 bytes"],
  ])("that holds %s is refused by its path", async (_name, content, code, found) => {
    const path = join(root, "key");
    await writeFile(path, content);
    const error = await rejection(fileKeys(path, { whenMissing: "plaintext", warn: () => {} }).load());
    expect(error).toBeInstanceOf(KeywardError);
    expect(error).toMatchObject({ code, message: expect.stringContaining(path) });
    expect(String(error)).toContain(found);
    for (const secret of secretsIn(content.toString())) expect(leak(shown(error), secret)).toBeUndefined();
  });

  it("that is a pipe, or a link that leads nowhere, is refused at once", async () => {
    await run("mkfifo", [join(root, "pipe")]);
    expect(await rejection(fileKeys(join(root, "pipe")).load())).toMatchObject({ code: "KEY_INVALID" });
    await symlink(join(root, "nothing"), join(root, "link"));
    const dangling = fileKeys(join(root, "link"), { whenMissing: "plaintext", warn: () => {} });
    expect(await rejection(dangling.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it("is replaced or rewritten, and each time read again", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    // So rarely looked at that only the file system's events can tell.
    const following = await follow(path, { pollMs: 2 ** 31 - 1 });
    for (const write of [replace, writeFile, replace, writeFile, writeFile]) {
      const value = key();
      await write(path, `a=${value}`);
      await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    }
  });

  it("that is written in two halves keeps the last good ring until it is whole", async () => {
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

  it("changed between the load and the subscription is noticed", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    const provider = fileKeys(path, { pollMs: 2 ** 31 - 1 });
    await provider.load();
    await replace(path, `a=${key()}`);
    const changed = vi.fn();
    ends.push(provider.subscribe?.(changed) ?? (() => {}));
    await until(() => expect(changed).toHaveBeenCalled());
  });

  it("does not answer for its neighbours", async () => {
    const path = join(root, "key");
    await writeFile(path, `a=${key()}`);
    const following = await follow(path, { pollMs: 20 });
    for (let number = 0; number < 5; number++) await writeFile(join(root, `neighbour-${number}`), "");
    const value = key();
    await replace(path, `a=${value}`);
    await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    expect(following.failures).toEqual([]);
  });

  it("that changes without end makes few calls", async () => {
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
    // One call for each tenth of a second, and one at each end.
    expect(following.calls).toBeLessThanOrEqual((performance.now() - startedAtMs) / 100 + 2);
  });
});

describe("a directory", () => {
  it("holds a key in each file, and the id of the primary", async () => {
    const [a, b] = [key(), key()];
    await writeFile(join(root, "a"), a);
    await writeFile(join(root, "2026-11"), `hex:${Buffer.from(b, "base64").toString("hex")}\n`);
    await writeFile(join(root, "primary"), "2026-11\n");
    await writeFile(join(root, ".hidden"), "not a key");
    expect(exportKeyring(await fileKeys(root).load())).toBe(ringOf({ "2026-11": b, a }));
  });

  it.each([
    ["no primary", { a: key() }, "KEYRING_INVALID"],
    ["a primary that is not there", { a: key(), primary: "b" }, "KEYRING_INVALID"],
    ["a key as primary", { a: key(), primary: key() }, "KEYRING_INVALID"],
    ["a primary and nothing else", { primary: "primary" }, "KEYRING_INVALID"],
    ["a name that is no id", { a: key(), "b.txt": key(), primary: "a" }, "KEY_INVALID"],
    ["a cut key", { a: key(), b: key().slice(4), primary: "a" }, "KEY_INVALID"],
    ["an id in a file", { a: key(), b: `b=${key()}`, primary: "a" }, "KEY_INVALID"],
    ["a document", { a: exportKeyring(Keyring.generate()), primary: "a" }, "KEY_INVALID"],
  ])("with %s is refused", async (_name, files: Record<string, string>, code) => {
    for (const [name, text] of Object.entries(files)) await writeFile(join(root, name), text);
    const error = await rejection(fileKeys(root).load());
    expect(error).toMatchObject({ code, message: expect.stringContaining(root) });
    for (const secret of Object.values(files).flatMap(secretsIn)) {
      expect(leak(shown(error), secret)).toBeUndefined();
    }
  });

  it("with a directory in it, or one key under two names, is refused", async () => {
    const a = key();
    for (const [name, text] of Object.entries({ a, b: a, primary: "a" })) await writeFile(join(root, name), text);
    expect(await rejection(fileKeys(root).load())).toMatchObject({ code: "KEYRING_INVALID" });
    await rm(join(root, "b"));
    await mkdir(join(root, "b"));
    expect(await rejection(fileKeys(root).load())).toMatchObject({ code: "KEY_INVALID" });
  });

  it("with something else in it, such as lost+found, has that named as what is too much", async () => {
    const path = join(root, "volume");
    await mkdir(join(path, "lost+found"), { recursive: true });
    const error = await rejection(fileKeys(path).load());
    expect(error).toMatchObject({ code: "KEY_INVALID", message: expect.stringContaining("lost+found") });
    expect(error).toMatchObject({ hint: expect.stringContaining("Take away what is no key") });
  });

  it("that Kubernetes mounts is followed through every swap", async () => {
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

  it("that Kubernetes mounts is followed by the path of one file in it", async () => {
    const mount = join(root, "mount");
    await publish(mount, { ring: `a=${key()}` });
    const following = await follow(join(mount, "ring"), { pollMs: 2 ** 31 - 1 });
    for (let swaps = 0; swaps < 3; swaps++) {
      const value = key();
      await publish(mount, { ring: `a=${value}` });
      await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    }
  });

  it("that is replaced whole is followed, and what changes in the new one as well", async () => {
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
    // After a change, the mount is looked at once more: only later is it the new directory's own event that tells.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await replace(join(mount, "k"), c);
    await until(() => expect(following.ring).toBe(ringOf({ k: c })));
  });

  it("is never read half in one state and half in another", async () => {
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

describe("a mount that vanishes", () => {
  it.each([
    ["looking at it alone", 25],
    ["the default", 2_000],
  ])("and comes back is seen, and what changes later as well: %s", async (_name, pollMs) => {
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

  it("as a file, and comes back as it was, is told of", async () => {
    const path = join(root, "key");
    await writeFile(path, key());
    const following = await follow(path, { pollMs: 25 });
    await rename(path, `${path}.away`);
    await until(() => expect(following.failures).not.toEqual([]));
    const calls = following.calls;
    await rename(`${path}.away`, path);
    await until(() => expect(following.calls).toBeGreaterThan(calls));
  });

  it.each(["error", "generate", "plaintext"] as const)("is not taken for a missing key: %s", async (whenMissing) => {
    const path = join(root, "mount", "key");
    await mkdir(join(root, "mount"));
    await writeFile(path, key());
    const provider = fileKeys(path, { whenMissing, warn: () => {} });
    await provider.load();
    await rm(join(root, "mount"), { recursive: true });
    expect(await rejection(provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });
});

describe("whenMissing", () => {
  it("applies to a path where nothing is, and to an empty directory", async () => {
    for (const path of [join(root, "nothing", "here"), root]) {
      expect(await rejection(fileKeys(path).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      const warn = vi.fn();
      const generating = fileKeys(path, { whenMissing: "generate", warn });
      expect(exportKeyring(await generating.load())).toBe(exportKeyring(await generating.load()));
      expect((await fileKeys(path, { whenMissing: "plaintext", warn }).load()).keys).toEqual([]);
      expect(warn.mock.calls.map(([, code]) => code)).toEqual(["KEYWARD_KEY_GENERATED", "KEYWARD_PLAINTEXT"]);
    }
  });

  it("is refused in production unless forced", async () => {
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

  it("in plaintext ends when a key is mounted, which is told of, and never comes back", async () => {
    const path = join(root, "key");
    const following = await follow(path, { pollMs: 25, whenMissing: "plaintext", warn: () => {} });
    const value = key();
    await replace(path, `a=${value}`);
    await until(() => expect(following.ring).toBe(ringOf({ a: value })));
    await rm(path);
    expect(await rejection(following.provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });
});

describe("create", () => {
  it("writes the first ring, for its owner alone, and never a second one", async () => {
    const path = join(root, "first.keyring");
    const ring = Keyring.generate();
    await fileKeys(path).create(ring);
    expect(exportKeyring(await fileKeys(path).load())).toBe(exportKeyring(ring));
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const second = Promise.resolve(fileKeys(path).create(Keyring.generate()));
    expect(await rejection(second)).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect(exportKeyring(await fileKeys(path).load())).toBe(exportKeyring(ring));
  });

  it("lets one of several win, and refuses what cannot be saved", async () => {
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

describe("save", () => {
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

  it("replaces the document and keeps the mode, in place of the file that a link leads to", async () => {
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

  it("lets one of many processes win each round", async () => {
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

  it("waits for the lock of a process that holds it, and needs nothing from one that was killed", async () => {
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
      await writeFile(`${path}.new`, "what a killed process left there");
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

  it("refuses what it cannot do, and says so", async () => {
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

describe("a source that cannot be saved to", () => {
  /** A directory of keys, as Kubernetes mounts it. */
  async function directory() {
    const path = join(root, "keys");
    await mkdir(path);
    await publish(path, { primary: "b", a: key(), b: key() });
    return path;
  }

  /** A keyring document that is a mount of its own, read-only as secrets are. Mounting is for root alone. */
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
  ])("as %s, is refused a rotation before anything is written, and a retirement only checks", async (_, open) => {
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
    // It still says what stands in the way.
    expect(
      await rejection(retireKey(keys, { other: new EncryptedStore(new MemoryStore(), { keys }) }, "none")),
    ).toMatchObject({
      code: "KEY_UNKNOWN",
    });
    for (const store of Object.values(stores)) await store.disconnect();
  });

  it("is told apart from one that can, which a retirement saves to", async () => {
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

it("does not keep a process alive by watching", async () => {
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

it("ends a subscription for good", async () => {
  const path = join(root, "key");
  await writeFile(path, key());
  const following = await follow(path, { pollMs: 10 });
  await replace(path, key());
  await until(() => expect(following.calls).toBeGreaterThan(0));
  const early = vi.fn();
  fileKeys(path, { pollMs: 10 }).subscribe?.(early)();
  // Ended while a call is on its way, and twice.
  await replace(path, key());
  for (const end of [...ends, ...ends]) end();
  const { calls } = following;
  const other = await follow(path, { pollMs: 10 });
  await replace(path, key());
  await until(() => expect(other.calls).toBeGreaterThan(0));
  expect(following.calls).toBe(calls);
  expect(early).not.toHaveBeenCalled();
});

it("shows no key of its own", async () => {
  const path = join(root, "key");
  const value = key();
  await writeFile(path, value);
  const provider = fileKeys(path);
  await provider.load();
  expect(leak(shown(provider), value)).toBeUndefined();
});

it.each([0, -1, Number.NaN, 2 ** 31])("refuses to look every %d ms", (pollMs) => {
  expect(() => fileKeys(root, { pollMs })).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
});

it.each<[string, object]>([
  ["a misspelt option", { whenMising: "generate" }],
  ["a mode that there is none of", { whenMissing: "ignore" }],
  ["a pollMs that is no number", { pollMs: "2000" }],
])("code without types is told of %s", (_name, options) => {
  for (const make of [() => fileKeys(root, options), () => envKeys("APP_KEY", options)]) {
    expect(make).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  }
});
