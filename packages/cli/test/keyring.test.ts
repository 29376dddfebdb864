import { execFileSync, spawn } from "node:child_process";
import { createCipheriv, createDecipheriv, randomBytes, randomUUID, scryptSync } from "node:crypto";
import { once } from "node:events";
import { watch } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, exportKeyring, Keyring, type KeywardKeyv } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithVault, findVaultServers, startVault } from "../../../test/servers/openbao.ts";
import { type Ended, executable, keyward, startKeyward } from "./keyward-process.ts";
import { Terminal } from "./terminal.ts";

const vaultServers = await findVaultServers();
const sources = { KEYWARD_KEYS: "file:production.keyring", KEYWARD_STORE_SESSIONS: "sqlite:sessions.sqlite" };
const alone = ["--unregistered", "0s"];
const names = ["session:1", "session:2", "session:3"];

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-keyring-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

/** Returns the forms in which a command could print the material of a key. */
function formsOf(material: string): readonly string[] {
  const bytes = Buffer.from(material, "base64url");
  return [material, bytes.toString("base64"), bytes.toString("hex")];
}

/** A folder with a keyring. Every command that runs in the folder is checked to print no key and no passphrase. */
class Desk {
  readonly folder: string;
  readonly #env: Readonly<Record<string, string>>;
  readonly #secrets = new Set<string>();

  constructor(folder: string, env: Readonly<Record<string, string>> = sources) {
    this.folder = folder;
    this.#env = env;
  }

  /** A folder with the keyring of one key, "one". */
  static async withKeyring(...flags: readonly string[]): Promise<Desk> {
    const desk = new Desk(await newFolder());
    expect(await desk.run("keyring", "create", "--id", "one", ...flags)).toMatchObject({ exitCode: 0 });
    return desk;
  }

  /** A folder with the keyring of one key, and a store that an application has written records to. */
  static async withRecords(): Promise<Desk> {
    const desk = await Desk.withKeyring("--stores", "sessions");
    await desk.inApplication(async (sessions) => {
      for (const name of names) await sessions.set(name, `value of ${name}`);
    });
    return desk;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async run(...commandLine: readonly string[]): Promise<Ended> {
    await this.#learnSecrets();
    const ended = await keyward(this.folder, this.#env, ...commandLine);
    await this.#learnSecrets();
    this.expectNoSecrets(ended.stdout + ended.stderr);
    return ended;
  }

  /** Runs a command that must succeed, and returns what it prints. */
  async do(...commandLine: readonly string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(...commandLine);
    expect({ commandLine, exitCode, stderr: exitCode === 0 ? "" : stderr }).toEqual({
      commandLine,
      exitCode: 0,
      stderr: "",
    });
    return stdout;
  }

  /** Runs a command that must be refused, and that must not change the keyring. Returns what it prints on stderr. */
  async refused(exitCode: number, ...commandLine: readonly string[]): Promise<string> {
    const before = await readFile(this.path("production.keyring"), "utf8").catch(() => "");
    const ended = await this.run(...commandLine);
    expect({ commandLine, ...ended }).toEqual({ commandLine, exitCode, stdout: "", stderr: expect.any(String) });
    expect(await readFile(this.path("production.keyring"), "utf8").catch(() => "")).toBe(before);
    return ended.stderr;
  }

  async keyring(): Promise<Keyring> {
    return Keyring.parse(await readFile(this.path("production.keyring"), "utf8"));
  }

  /** Changes the keyring by hand, as an operator does who edits its document. */
  async change(change: (keyring: Keyring) => Keyring): Promise<void> {
    const keys = fileKeys(this.path("production.keyring"));
    const keyring = await keys.load();
    await keys.save(change(keyring), keyring);
  }

  /** Writes a passphrase into a file of this folder, and returns the flags that name the file. */
  async passphrase(text: string, file = "passphrase"): Promise<readonly [string, string]> {
    this.#secrets.add(text);
    await writeFile(this.path(file), `${text}\n`);
    return ["--passphrase-file", file];
  }

  /** Runs `work` in an application that ends afterwards. */
  async inApplication(work: (sessions: KeywardKeyv) => Promise<void>, replica = false): Promise<void> {
    const store = new SqliteStore(this.path("sessions.sqlite"));
    const keys = fileKeys(this.path("production.keyring"));
    const sessions = createKeyv({ store, keys, namespace: "sessions", ...(replica ? { replica: true } : {}) });
    try {
      await work(sessions);
      await sessions.encryptedStore.settled();
    } finally {
      await sessions.disconnect();
      await store.disconnect();
    }
  }

  async expectReadable(): Promise<void> {
    await this.inApplication(async (sessions) =>
      expect(await sessions.getMany(names)).toEqual(names.map((name) => `value of ${name}`)),
    );
  }

  expectNoSecrets(printed: string): void {
    for (const secret of this.#secrets) expect(printed.includes(secret), "the output has a secret").toBe(false);
  }

  /** Collects the material of every keyring document in the folder. */
  async #learnSecrets(): Promise<void> {
    for (const entry of await readdir(this.folder, { withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const text = await readFile(this.path(entry.name), "latin1");
      for (const [, material = ""] of text.matchAll(/"material": ?"([\w-]{43})"/g)) {
        for (const form of formsOf(material)) this.#secrets.add(form);
      }
    }
  }
}

const statuses = ({ keys }: Keyring) => Object.fromEntries(keys.map(({ id, status }) => [id, status]));

describe("keyward keyring add", () => {
  it("adds a key that is not the primary, and a later rotation promotes the key", async () => {
    const desk = await Desk.withRecords();
    expect(await desk.do("keyring", "add", "--id", "two")).toBe(
      'Key "two" was added. A rotation continues with it: `keyward rotate --new-key two`.\n',
    );
    const ring = await desk.keyring();
    expect({ primary: ring.primary, ...statuses(ring) }).toEqual({ primary: "one", one: "enabled", two: "enabled" });
    expect(await desk.do("rotate", "--new-key", "two", "--grace", "0s", ...alone)).toContain('to "two": done');
    expect(statuses(await desk.keyring())).toEqual({ two: "enabled" });
    await desk.expectReadable();
  });

  it("makes an id of date and random digits if --id is missing, and refuses an id that exists or is invalid", async () => {
    const desk = await Desk.withKeyring();
    const { keyId: id } = JSON.parse(await desk.do("keyring", "add", "--json"));
    expect(id).toMatch(/^\d{4}-\d\d-\d\d-[0-9a-f]{6}$/);
    expect(await desk.refused(1, "keyring", "add", "--id", "one")).toContain("(KEYRING_INVALID)");
    expect(await desk.refused(1, "keyring", "add", "--id", "a key")).toContain("(KEY_INVALID)");
  });

  it("prints what to change if the source cannot be saved, and exits with code 3", async () => {
    const folder = await newFolder();
    await mkdir(join(folder, "keys"));
    await writeFile(join(folder, "keys", "one"), randomBytes(32).toString("base64"));
    await writeFile(join(folder, "keys", "primary"), "one");
    const desk = new Desk(folder, { KEYWARD_KEYS: "file:keys" });
    const inFolder = await desk.refused(3, "keyring", "add", "--id", "two");
    expect(inFolder).toMatch(/Add a file "two" with a new key to the directory .*keys/);
    expect(inFolder).toContain("(CHANGE_NEEDED)");
    const key = randomBytes(32).toString("base64");
    const inVariable = new Desk(folder, { KEYWARD_KEYS: "env:APP_KEY", APP_KEY: key });
    const printed = await inVariable.refused(3, "keyring", "add", "--id", "two");
    expect(printed).toContain('Add the text "two=hex:" and the new key to APP_KEY_OTHERS');
    expect(printed).not.toContain(key);
    expect(await readdir(join(folder, "keys"))).toEqual(["one", "primary"]);
  });
});

describe("keyward keyring promote", () => {
  it("begins a rotation, which `rotate` continues and `rollback` undoes", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "add", "--id", "two");
    expect(await desk.do("keyring", "promote", "two", ...alone)).toBe(
      'Key "two" is the primary now. Records under key "one" are still readable.\n' +
        "`keyward rotate --new-key two` continues the rotation, and `keyward rollback` undoes it.\n",
    );
    expect((await desk.keyring()).primary).toBe("two");
    expect(await desk.do("status")).toContain("at step drain");
    await desk.expectReadable();
    expect(await desk.do("keyring", "promote", "two", ...alone)).toBe('Key "two" is the primary already.\n');
    expect(await desk.do("rollback", "--grace", "0s", ...alone)).toContain('to "one": done');
    await desk.do("keyring", "add", "--id", "three");
    await desk.do("keyring", "promote", "three", ...alone);
    expect(await desk.do("rotate", "--new-key", "three", "--grace", "0s", ...alone)).toContain('to "three": done');
    await desk.expectReadable();
  });

  it("refuses an unknown and a disabled key before it begins a rotation, and waits for a replica", async () => {
    const desk = await Desk.withRecords();
    expect(await desk.refused(1, "keyring", "promote", "two", ...alone)).toContain("(KEY_UNKNOWN)");
    await desk.do("keyring", "add", "--id", "two");
    expect(await desk.refused(3, "keyring", "promote", "two")).toContain("(NO_REPLICAS)");
    await desk.do("keyring", "disable", "two");
    const disabled = await desk.refused(1, "keyring", "promote", "two", ...alone);
    expect(disabled).toContain("(KEY_DISABLED)");
    expect(disabled).toContain("`keyward keyring enable two`");
    expect(await desk.do("status")).toBe("There was no rotation yet.\n");
  });
});

describe("keyward keyring disable and remove", () => {
  it("disable and remove a key that no record needs, and need a confirmation for the removal", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "add", "--id", "two");
    expect(await desk.refused(1, "--yes", "keyring", "remove", "two")).toContain(
      "is enabled and cannot be removed yet",
    );
    expect(await desk.do("keyring", "disable", "two")).toBe('Key "two" is disabled.\n');
    for (const command of [
      ["keyring", "remove", "two"],
      ["retire", "two", "--remove"],
    ]) {
      const asked = await desk.refused(1, ...command);
      expect(asked).toContain('Key "two" would be removed, and only a backup of the keyring could bring it back.');
      expect(asked).toContain("(NOT_CONFIRMED)");
    }
    expect(await desk.do("--yes", "keyring", "remove", "two")).toBe('Key "two" is removed.\n');
    expect(statuses(await desk.keyring())).toEqual({ one: "enabled" });
  });

  it("refuse the primary, an unknown key, and a key that records need", async () => {
    const desk = await Desk.withRecords();
    expect(await desk.refused(1, "keyring", "disable", "one")).toContain("(KEYRING_INVALID)");
    expect(await desk.refused(1, "--yes", "keyring", "remove", "one")).toContain("(KEYRING_INVALID)");
    expect(await desk.refused(1, "keyring", "disable", "two")).toContain("(KEY_UNKNOWN)");
    expect(await desk.refused(1, "--yes", "keyring", "remove", "two")).toContain("(KEY_UNKNOWN)");
    await desk.change((keyring) => keyring.add({ id: "two" }).promote("two"));
    const inUse = await desk.refused(1, "keyring", "disable", "one");
    expect(inUse).toMatch(/3 in sessions.*\(KEY_IN_USE\)/);
  });

  it("refuse the keys of a running rotation, with a hint to roll back, which works even if the new key is gone", async () => {
    const desk = await Desk.withRecords();
    await desk.do("rotate", "--new-key", "two", "--until", "distribute", ...alone);
    for (const command of [
      ["keyring", "disable", "one"],
      ["keyring", "disable", "two"],
      ["--yes", "keyring", "remove", "two"],
    ]) {
      const refused = await desk.refused(3, ...command);
      expect(refused).toContain("(ROTATION_IN_PROGRESS)");
      expect(refused).toContain("run `keyward rollback`");
    }
    // An operator who edits the keyring by hand can still take the new key away.
    await desk.change((keyring) => keyring.remove("two"));
    const unknown = await desk.refused(1, "rotate", ...alone);
    expect(unknown).toContain('Key "two", the new key of the running rotation, was removed from the keyring');
    expect(unknown).toContain("To end the rotation without this key, run `keyward rollback`.");
    expect(await desk.refused(3, "rotate", "--new-key", "one", ...alone)).toContain("run `keyward rollback`");
    expect(await desk.do("rollback", "--grace", "0s", ...alone)).toContain('to "one": done');
    expect(await desk.do("rotate", "--new-key", "three", "--grace", "0s", ...alone)).toContain('to "three": done');
    await desk.expectReadable();
  });
});

describe("keyward keyring enable, for the old key of a rotation during the grace", () => {
  it("enables the key, so that the next `rotate` disables the key again and begins a new grace", async () => {
    const desk = await Desk.withRecords();
    const rotation = ["rotate", "--new-key", "two", "--grace", "1d", ...alone];
    expect(await desk.do(...rotation)).toContain("the next step is grace");
    const disabledAtMs = JSON.parse(await desk.do("status", "--json")).rotation.disabledAtMs;
    await desk.do("keyring", "enable", "one");
    const { exitCode, stderr } = await desk.run(...rotation);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: expect.stringMatching(/^reencrypt\n/) });
    expect(stderr).toMatch(/Run the same command again in (?:23h 59m|1d)/);
    expect(statuses(await desk.keyring())).toEqual({ one: "disabled", two: "enabled" });
    expect(JSON.parse(await desk.do("status", "--json")).rotation.disabledAtMs).toBeGreaterThan(disabledAtMs);
    await desk.expectReadable();
  });
});

describe("keyward keyring remove, if the source of the keys cannot be saved", () => {
  it("asks the operator to remove the key at the source, waits for the removal, and asks for no confirmation", async () => {
    const folder = await newFolder();
    await mkdir(join(folder, "keys"));
    for (const id of ["one", "two"]) await writeFile(join(folder, "keys", id), randomBytes(32).toString("base64"));
    await writeFile(join(folder, "keys", "primary"), "one");
    const flags = ["--keys", "file:keys", "--store", "sqlite:a.sqlite", "--empty-store", "records"];
    const child = startKeyward(folder, {}, "keyring", "remove", "two", ...flags);
    onTestFinished(() => void child.kill("SIGKILL"));
    let printed = "";
    child.stderr.on("data", (data) => {
      printed += String(data);
      if (printed.includes('Remove the file "two"')) void rm(join(folder, "keys", "two"), { force: true });
    });
    const [exitCode] = await once(child, "exit");
    expect({ exitCode, printed }).toEqual({ exitCode: 0, printed: expect.stringContaining('Remove the file "two"') });
    const inFolder = new Desk(folder, { KEYWARD_KEYS: "file:keys" });
    expect(await inFolder.refused(1, "keyring", "enable", "two")).toContain("(KEY_UNKNOWN)");
  });
});

/** Reads an encrypted backup as docs/keyring.md ("Backups") specifies it. */
function readAsSpecified(text: string, passphrase: string): string {
  const { N, r, p, salt, nonce, ciphertext } = JSON.parse(text);
  const options = { N, r, p, maxmem: 2 ** 31 - 1 };
  const key = scryptSync(passphrase.normalize("NFC"), Buffer.from(salt, "base64url"), 32, options);
  const decipher = createDecipheriv("aes-256-gcm", key, Buffer.from(nonce, "base64url"), { authTagLength: 16 });
  decipher.setAAD(Buffer.from(`keyward-backup:1:scrypt:${N}:${r}:${p}:${salt}:aes-256-gcm:${nonce}`));
  const bytes = Buffer.from(ciphertext, "base64url");
  decipher.setAuthTag(bytes.subarray(bytes.length - 16));
  return decipher.update(bytes.subarray(0, bytes.length - 16), undefined, "utf8") + decipher.final("utf8");
}

/** Writes an encrypted backup as docs/keyring.md ("Backups") specifies it, with low parameters. */
function writeAsSpecified(document: string, passphrase: string): Record<string, unknown> {
  const [N, r, p] = [2 ** 14, 4, 2];
  const [salt, nonce] = [randomBytes(16), randomBytes(12)];
  const cipher = createCipheriv("aes-256-gcm", scryptSync(passphrase.normalize("NFC"), salt, 32, { N, r, p }), nonce);
  const [shownSalt, shownNonce] = [salt.toString("base64url"), nonce.toString("base64url")];
  cipher.setAAD(Buffer.from(`keyward-backup:1:scrypt:${N}:${r}:${p}:${shownSalt}:aes-256-gcm:${shownNonce}`));
  const bytes = Buffer.concat([cipher.update(document, "utf8"), cipher.final(), cipher.getAuthTag()]);
  return {
    "keyward-backup": 1,
    kdf: "scrypt",
    N,
    r,
    p,
    salt: shownSalt,
    cipher: "aes-256-gcm",
    nonce: shownNonce,
    ciphertext: bytes.toString("base64url"),
  };
}

describe("keyward keyring", () => {
  it("refuses to export the keyring of a scope, because `import` would refuse it", async () => {
    const desk = await Desk.withKeyring();
    const document = exportKeyring((await desk.keyring()).scope("tenant"));
    await writeFile(desk.path("scoped.keyring"), document, { mode: 0o600 });
    const refused = await desk.refused(1, "keyring", "export", "a.backup", "--keys", "file:scoped.keyring");
    expect(refused).toContain("only the keyring of a scope");
  });

  it("`stores` adds a store to the list of the keyring, as doctor advises, and leaves out a name only after a confirmation", async () => {
    const desk = await Desk.withKeyring("--stores", "sessions");
    const both = ["--store", "sessions=sqlite:s", "--store", "flows=sqlite:f"];
    const asked = await desk.run("doctor", ...both, "--empty-store", "sessions", "--empty-store", "flows");
    expect(asked.stdout).toContain("`keyward keyring stores sessions flows`");
    const listed = await desk.do("keyring", "stores", "sessions", "flows", ...both);
    expect(listed).toBe("The keyring lists the stores sessions, flows.\n");
    expect(await desk.do("keyring", "show")).toMatch(/stores sessions, flows$/m);
    expect(await desk.refused(1, "keyring", "stores", "flows", ...both)).toContain("(NOT_CONFIRMED)");
    expect(await desk.refused(2, "keyring", "stores", "flow", ...both)).toContain('No store is named "flow"');
    expect(await desk.refused(2, "keyring", "stores", "a b")).toContain('"a b" cannot be the name of a store');
    const left = await desk.do("keyring", "stores", "flows", "--yes", ...both);
    expect(left).toBe("The keyring lists the stores flows.\n");
  });

  it("`create` refuses to save a keyring if a store was used with another keyring", async () => {
    const desk = await Desk.withRecords();
    await rm(desk.path("production.keyring"));
    const refused = await desk.refused(1, "keyring", "create", "--id", "other");
    expect(refused).toContain("`keyward keyring import <backup>`");
    await expect(stat(desk.path("production.keyring"))).rejects.toThrow("ENOENT");
  });

  it("`promote` reports success only if the key is the primary, even if the last rotation to the key is recorded as done", async () => {
    const desk = await Desk.withRecords();
    await desk.do("rotate", "--new-key", "two", "--grace", "1d", ...alone);
    await desk.do("keyring", "export", "a.backup");
    await rm(desk.path("production.keyring"));
    await desk.do("keyring", "create", "--id", "nine", "--stores", "sessions", "--empty-store", "sessions");
    await desk.do("keyring", "import", "a.backup", "--yes");
    await desk.do("keyring", "enable", "two");
    const { exitCode, stdout } = await desk.run("keyring", "promote", "two", ...alone);
    const { primary } = await desk.keyring();
    expect({ isPromoted: stdout.includes("is the primary now"), exitCode }).toEqual(
      primary === "two" ? { isPromoted: true, exitCode: 0 } : { isPromoted: false, exitCode: 3 },
    );
  });
});

describe("keyward keyring export", () => {
  it("writes the whole keyring to a new file that only its owner can read, and never over an existing file", async () => {
    const desk = await Desk.withKeyring("--stores", "sessions");
    await desk.do("keyring", "add", "--id", "two");
    expect(await desk.do("keyring", "export", "first.backup")).toBe(
      "The keyring is in first.backup, with 2 keys. The file is not encrypted, so anyone who can read it can decrypt the records: keep it apart from the stores.\n",
    );
    expect((await stat(desk.path("first.backup"))).mode & 0o777).toBe(0o600);
    const backup = await readFile(desk.path("first.backup"), "utf8");
    expect(backup).toBe(`${exportKeyring(await desk.keyring())}\n`);
    await desk.do("keyring", "add", "--id", "three");
    expect(await desk.refused(1, "keyring", "export", "first.backup")).toContain(
      "exists already, so nothing was written",
    );
    expect(await readFile(desk.path("first.backup"), "utf8")).toBe(backup);
    expect(await desk.refused(2, "keyring", "export", "missing/first.backup")).toContain("(USAGE)");
    expect((await readdir(desk.folder)).filter((name) => name.endsWith(".unfinished"))).toEqual([]);
  });

  it("encrypts the backup under a passphrase, as the documentation specifies it", async () => {
    const desk = await Desk.withKeyring();
    // "é" as two code points, which another keyboard types as one.
    const passphrase = `cafe\u0301 ${randomUUID()}`;
    const flags = await desk.passphrase(passphrase);
    expect(await desk.do("keyring", "export", "first.backup", ...flags)).toContain("Only the passphrase decrypts it");
    const backup = await readFile(desk.path("first.backup"), "utf8");
    const document = exportKeyring(await desk.keyring());
    expect(readAsSpecified(backup, passphrase)).toBe(document);
    expect(JSON.parse(backup)).toMatchObject({ N: 2 ** 17, r: 8, p: 1 });
    await desk.do("keyring", "export", "second.backup", ...flags);
    const second = JSON.parse(await readFile(desk.path("second.backup"), "utf8"));
    const first = JSON.parse(backup);
    expect([second.salt === first.salt, second.nonce === first.nonce]).toEqual([false, false]);
    const composed = await desk.passphrase(passphrase.normalize("NFC"), "composed");
    expect(await desk.do("keyring", "import", "first.backup", ...composed)).toContain("has every key of the backup");
  });

  it("refuses a short or missing passphrase, one that is not text, and a question without a terminal", async () => {
    const desk = await Desk.withKeyring();
    const short = await desk.refused(2, "keyring", "export", "b", ...(await desk.passphrase("elevenchars")));
    expect(short).toContain("The passphrase has only 11 characters");
    expect(await desk.refused(2, "keyring", "export", "b", "--passphrase")).toContain("--passphrase-file <file>");
    expect(await desk.refused(2, "keyring", "export", "b", "--passphrase-file", "gone")).toContain("does not exist");
    await writeFile(desk.path("empty"), "\nsecond line of text");
    expect(await desk.refused(2, "keyring", "export", "b", "--passphrase-file", "empty")).toContain("has no text");
    await writeFile(desk.path("bytes"), Buffer.alloc(20, 0xfe));
    expect(await desk.refused(2, "keyring", "export", "b", "--passphrase-file", "bytes")).toContain("is not UTF-8");
    const folder = await desk.refused(1, "keyring", "export", "b", "--passphrase-file", ".");
    expect(folder).toContain("not a regular file");
    expect(await readdir(desk.folder)).not.toContain("b");
  });

  it("asks twice for the passphrase on a terminal, and does not show it", async () => {
    const desk = await Desk.withKeyring();
    const passphrase = `correct horse ${randomUUID()}`;
    const flags = await desk.passphrase(passphrase);
    const typed = async (file: string, first: string, second: string) => {
      const terminal = new Terminal(desk.folder, sources, "keyring", "export", "--passphrase", file);
      await terminal.answer("New passphrase", first);
      await terminal.answer("once more", second);
      const exitCode = await terminal.end();
      desk.expectNoSecrets(terminal.text);
      return { exitCode, printed: terminal.text };
    };
    const good = await typed("good.backup", passphrase, passphrase);
    expect(good).toEqual({ exitCode: 0, printed: expect.stringContaining("Only the passphrase decrypts it") });
    expect(await desk.do("keyring", "import", "good.backup", ...flags)).toContain("has every key of the backup");
    const differing = await typed("bad.backup", passphrase, `${passphrase}r`);
    expect(differing).toEqual({ exitCode: 2, printed: expect.stringContaining("The two passphrases differ") });
    expect(await readdir(desk.folder)).not.toContain("bad.backup");
  });

  it("leaves no file if the disk has no space for the backup", async () => {
    const desk = await Desk.withKeyring();
    // A file of this shell can have at most 512 bytes, which the keyring document exceeds.
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "add", "--id", "three");
    const command = `ulimit -f 1; exec '${process.execPath}' --conditions development '${executable}' keyring export b`;
    const { PATH = "", HOME = "" } = process.env;
    const child = spawn("sh", ["-c", command], { cwd: desk.folder, env: { PATH, HOME, ...sources } });
    let printed = "";
    child.stderr.on("data", (data) => {
      printed += String(data);
    });
    expect(await once(child, "close")).toEqual([1, null]);
    expect(printed).toContain("The file b cannot be written (EFBIG)");
    expect((await readdir(desk.folder)).filter((name) => name.startsWith("b"))).toEqual([]);
  });

  it("leaves no part of a backup at its path if it is killed", async () => {
    const desk = await Desk.withKeyring();
    for (let attempt = 0; attempt < 4; attempt++) {
      const file = `killed-${attempt}`;
      const child = startKeyward(desk.folder, sources, "keyring", "export", file);
      const exited = once(child, "exit");
      // Each attempt kills at another of the changes in the folder, while the export writes.
      let changes = 0;
      const watcher = watch(desk.folder, (_, name) => {
        if (name?.startsWith(file) === true && changes++ >= attempt) child.kill("SIGKILL");
      });
      await exited;
      watcher.close();
      const isThere = (await readdir(desk.folder)).includes(file);
      if (isThere) expect(await desk.do("keyring", "import", file)).toContain("has every key of the backup");
      else await desk.do("keyring", "export", file);
    }
  });
});

describe("keyward keyring import", () => {
  it("restores a lost keyring with a generation that the stores accept", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "add", "--id", "two");
    const flags = await desk.passphrase(randomUUID());
    await desk.do("keyring", "export", "early.backup", ...flags);
    await desk.do("keyring", "export", "plain.backup");
    await desk.do("rotate", "--new-key", "two", "--grace", "0s", ...alone);
    const { generation } = await desk.keyring();
    const write = () => desk.inApplication(async (sessions) => void (await sessions.set("session:4", "new")), true);

    await copyFile(desk.path("plain.backup"), desk.path("production.keyring"));
    await expect(write()).rejects.toMatchObject({ code: "KEYRING_ROLLBACK" });

    await rm(desk.path("production.keyring"));
    const { exitCode, stdout, stderr } = await desk.run("keyring", "import", "early.backup", ...flags);
    expect({ exitCode, stdout }).toEqual({
      exitCode: 0,
      stdout: 'The keyring was restored, with 2 keys. Its primary is key "one".\n',
    });
    expect(stderr).toContain(`the keyring now has generation ${generation + 1}`);
    const restored = await desk.keyring();
    expect({ generation: restored.generation, ...statuses(restored) }).toEqual({
      generation: generation + 1,
      one: "enabled",
      two: "enabled",
    });
    await write();
    await desk.expectReadable();
  });

  it("restores a backup that cannot decrypt the check record of a store only after a confirmation", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "export", "old.backup");
    await desk.do("rotate", "--new-key", "two", "--grace", "0s", ...alone);
    await rename(desk.path("production.keyring"), desk.path("lost.keyring"));
    expect(await desk.refused(1, "keyring", "import", "old.backup")).toMatch(
      /check records of sessions: .*\(NOT_CONFIRMED\)/s,
    );
    expect(await desk.do("--yes", "keyring", "import", "old.backup")).toContain(
      "The keyring was restored, with 1 key.",
    );
  });

  it("restores a keyring while its store does not answer, and prints which stores were not asked", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "export", "a.backup");
    await rm(desk.path("production.keyring"));
    const down = await desk.run("keyring", "import", "a.backup", "--store", "sessions=sqlite:gone.sqlite");
    expect(down.exitCode).toBe(0);
    expect(down.stderr).toContain(
      "These stores were not asked which generation they require: sessions (STORE_INVALID)",
    );
    const other = new Desk(desk.folder, { KEYWARD_KEYS: "file:other.keyring" });
    const none = await other.run("keyring", "import", "a.backup");
    expect(none).toMatchObject({ exitCode: 0, stderr: expect.stringContaining("sessions (not named)") });
    await desk.expectReadable();
  });

  it("adds a key that was removed after the backup as a disabled key, which `enable` enables", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "export", "early.backup");
    await desk.do("rotate", "--new-key", "two", "--grace", "0s", ...alone);
    expect(await desk.do("--yes", "keyring", "import", "early.backup")).toBe(
      'Key "one" was added, disabled. If records need it and it is not compromised: `keyward keyring enable one`.\n',
    );
    const ring = await desk.keyring();
    expect({ primary: ring.primary, ...statuses(ring) }).toEqual({ primary: "two", one: "disabled", two: "enabled" });
    expect(await desk.do("keyring", "import", "early.backup")).toBe(
      "The keyring has every key of the backup already.\n",
    );
    expect((await desk.keyring()).generation).toBe(ring.generation);
    await desk.do("keyring", "enable", "one");
    await desk.expectReadable();
  });

  it("adds the keys of a later backup with the status that they have there, and keeps the primary", async () => {
    const desk = await Desk.withRecords();
    await copyFile(desk.path("production.keyring"), desk.path("earlier.keyring"));
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "promote", "two", ...alone);
    await desk.do("rotate", "--new-key", "two", "--until", "disable", ...alone);
    await desk.do("keyring", "export", "later.backup");
    await copyFile(desk.path("earlier.keyring"), desk.path("production.keyring"));
    // The rotation needs the missing key, so it does not refuse the import.
    expect(await desk.do("keyring", "import", "later.backup")).toMatch(/^Key "two" was added\.\n/);
    const ring = await desk.keyring();
    expect({ primary: ring.primary, ...statuses(ring) }).toEqual({ primary: "one", one: "enabled", two: "enabled" });
    expect(ring.generation).toBeGreaterThan(JSON.parse(await readFile(desk.path("later.backup"), "utf8")).generation);
    await desk.expectReadable();
  });

  it("refuses a known id with other material, and adds the keys of an unrelated keyring only after a confirmation", async () => {
    const desk = await Desk.withRecords();
    const write = async (file: string, ring: Keyring) => await writeFile(desk.path(file), exportKeyring(ring));
    await write("same-id.backup", Keyring.generate("one").add({ id: "two" }));
    const conflict = await desk.refused(1, "--yes", "keyring", "import", "same-id.backup");
    expect(conflict).toContain('Key "one" has other material in the backup than in the keyring (KEYRING_CONFLICT)');
    await write("unrelated.backup", Keyring.generate("stranger"));
    expect(await desk.refused(1, "keyring", "import", "unrelated.backup")).toMatch(/shares no key.*\(NOT_CONFIRMED\)/s);
    expect(await desk.do("--yes", "keyring", "import", "unrelated.backup")).toContain(
      'Key "stranger" was added, disabled',
    );
    expect((await desk.keyring()).primary).toBe("one");
    await desk.expectReadable();
  });

  it("refuses to add keys during a rotation if the rotation does not need these keys", async () => {
    const desk = await Desk.withRecords();
    await desk.do("keyring", "add", "--id", "unused");
    await desk.do("keyring", "export", "early.backup");
    await desk.do("keyring", "disable", "unused");
    await desk.do("--yes", "keyring", "remove", "unused");
    await desk.do("rotate", "--new-key", "two", "--until", "promote", ...alone);
    const refused = await desk.refused(3, "keyring", "import", "early.backup");
    expect(refused).toContain(
      'A rotation from key "one" to "two" is in progress, at step drain (ROTATION_IN_PROGRESS)',
    );
    await desk.do("rotate", "--new-key", "two", "--grace", "0s", ...alone);
    expect(await desk.do("--yes", "keyring", "import", "early.backup")).toContain('Key "unused" was added, disabled');
  });

  it("reports a wrong passphrase, and refuses an encrypted backup in which any field was altered", async () => {
    const desk = await Desk.withKeyring();
    const passphrase = randomUUID();
    const flags = await desk.passphrase(passphrase);
    const good = writeAsSpecified(exportKeyring((await desk.keyring()).add({ id: "two" })), passphrase);
    const write = async (fields: object) => await writeFile(desk.path("a.backup"), JSON.stringify(fields));
    await write(good);
    const wrong = await desk.passphrase(randomUUID(), "wrong");
    const printed = await desk.refused(1, "keyring", "import", "a.backup", ...wrong);
    expect(printed).toMatch(/the passphrase is wrong \(PASSPHRASE_WRONG\)\nRun the command again with the passphrase/);
    expect(await desk.refused(2, "keyring", "import", "a.backup")).toContain("there is no terminal to ask for it");
    const otherBytes = (length: number) => randomBytes(length).toString("base64url");
    const alterations: readonly (readonly [object, string])[] = [
      [{ "keyward-backup": 2 }, "KEYRING_INVALID"],
      [{ kdf: "pbkdf2" }, "KEYRING_INVALID"],
      [{ cipher: "aes-128-gcm" }, "KEYRING_INVALID"],
      [{ N: 2 ** 15 }, "PASSPHRASE_WRONG"],
      [{ N: 2 ** 14 + 1 }, "KEYRING_INVALID"],
      [{ N: 2 ** 30 }, "KEYRING_INVALID"],
      [{ N: "16384" }, "KEYRING_INVALID"],
      [{ r: 2 ** 20 }, "KEYRING_INVALID"],
      [{ p: 0 }, "KEYRING_INVALID"],
      [{ p: 1 }, "PASSPHRASE_WRONG"],
      [{ salt: otherBytes(16) }, "PASSPHRASE_WRONG"],
      [{ salt: otherBytes(15) }, "KEYRING_INVALID"],
      [{ nonce: otherBytes(12) }, "PASSPHRASE_WRONG"],
      [{ nonce: null }, "KEYRING_INVALID"],
      [{ ciphertext: otherBytes(16) }, "KEYRING_INVALID"],
      [{ ciphertext: otherBytes(200) }, "PASSPHRASE_WRONG"],
      [{ ciphertext: `${String(good["ciphertext"])}=` }, "KEYRING_INVALID"],
    ];
    for (const [alteration, code] of alterations) {
      await write({ ...good, ...alteration });
      expect(await desk.refused(1, "keyring", "import", "a.backup", ...flags), JSON.stringify(alteration)).toContain(
        `(${code})`,
      );
    }
    await write(good);
    expect(await desk.do("keyring", "import", "a.backup", ...flags)).toContain('Key "two" was added.');
  });

  it("refuses a file that is not a backup, and a passphrase for a backup that is not encrypted", async () => {
    const desk = await Desk.withKeyring();
    const flags = await desk.passphrase(randomUUID());
    expect(await desk.refused(2, "keyring", "import", "gone.backup")).toContain("does not exist");
    expect(await desk.refused(1, "keyring", "import", ".")).toContain("is not a regular file of at most 1 MiB");
    execFileSync("mkfifo", [desk.path("pipe")]);
    expect(await desk.refused(1, "keyring", "import", "pipe")).toContain("is not a regular file of at most 1 MiB");
    await writeFile(desk.path("large"), Buffer.alloc(2 ** 20 + 1, " "));
    expect(await desk.refused(1, "keyring", "import", "large")).toContain("is not a regular file of at most 1 MiB");
    for (const text of ["", "not JSON", "[]", "null", '{"keyward":1}']) {
      await writeFile(desk.path("text"), text);
      expect(await desk.refused(1, "keyring", "import", "text"), text).toContain("(KEYRING_INVALID)");
    }
    await writeFile(desk.path("scoped"), exportKeyring((await desk.keyring()).scope("part")));
    expect(await desk.refused(1, "keyring", "import", "scoped")).toContain("has only the keyring of a scope");
    await desk.do("keyring", "export", "plain.backup");
    const swapped = await desk.refused(2, "keyring", "import", "plain.backup", ...flags);
    expect(swapped).toContain("is not encrypted, but a passphrase was given");
  });

  it("refuses a source that has broken keys or cannot be saved, and prints what to change", async () => {
    const desk = await Desk.withKeyring();
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "export", "a.backup");
    const document = await readFile(desk.path("production.keyring"), "utf8");
    await writeFile(desk.path("production.keyring"), document.slice(0, -20));
    const broken = await desk.refused(1, "keyring", "import", "a.backup");
    expect(broken).toContain("(KEYRING_INVALID)");
    expect(broken).toContain("first move those keys to another place");
    const key = Buffer.from(JSON.parse(document).keys[0].material, "base64url").toString("base64");
    const variable = new Desk(desk.folder, { KEYWARD_KEYS: "env:APP_KEY", APP_KEY: `one=${key}` });
    const readOnly = await variable.refused(1, "keyring", "import", "a.backup");
    expect(readOnly).toContain("(PROVIDER_READ_ONLY)");
    expect(readOnly).toContain("Add these keys of the backup where the source keeps its keys: two.");
    const unset = new Desk(desk.folder, { KEYWARD_KEYS: "env:APP_KEY" });
    expect(await unset.refused(1, "keyring", "import", "a.backup")).toContain("(PROVIDER_READ_ONLY)");
    const disabled = exportKeyring(Keyring.parse(document).disable("two"));
    const inVariable = new Desk(desk.folder, { KEYWARD_KEYS: "env:APP_KEY", APP_KEY: disabled });
    expect(await inVariable.refused(1, "keyring", "enable", "two")).toContain(
      'set the status of key "two" to "enabled"',
    );
  });
});

describeWithVault(vaultServers, "keyward keyring over OpenBao or Vault", () => {
  it("changes a keyring in a secret, and restores the secret from an encrypted backup", async () => {
    const server = await startVault(vaultServers);
    onTestFinished(() => server.stop());
    await server.request("POST", "sys/mounts/kv", { type: "kv", options: { version: "2" } });
    // A new engine answers 400 until its upgrade to version 2 is complete.
    const isReady = async () =>
      await server.request("GET", "kv/config").then(
        () => true,
        () => false,
      );
    await expect.poll(isReady, { timeout: 20_000 }).toBe(true);
    const env = {
      ...sources,
      KEYWARD_KEYS: "vault://kv/app/keyring",
      VAULT_ADDR: server.address,
      VAULT_TOKEN: server.rootToken,
    };
    const desk = new Desk(await newFolder(), env);
    await desk.do("keyring", "create", "--id", "one", "--stores", "sessions");
    await desk.do("keyring", "add", "--id", "two");
    const flags = await desk.passphrase(randomUUID());
    await desk.do("keyring", "export", "a.backup", ...flags);
    await server.request("DELETE", "kv/metadata/app/keyring");
    const restored = await desk.run("keyring", "import", "a.backup", "--store", "sessions=sqlite:none", ...flags);
    expect(restored).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("restored, with 2 keys") });
    expect(await desk.do("keyring", "show")).toMatch(/^one +primary.*\ntwo +enabled/m);
    const stored = JSON.stringify(await server.request("GET", "kv/data/app/keyring"));
    for (const [, material = ""] of stored.matchAll(/material\W+([\w-]{43})/g)) {
      expect(JSON.stringify(restored)).not.toContain(material);
    }
    await server.seal();
    expect(await desk.refused(1, "keyring", "import", "a.backup", ...flags)).toContain("(PROVIDER_UNAVAILABLE)");
  });
});
