import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createKeyv, exportKeyring, Keyring, type KeywardKeyv } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { SqliteStore } from "@keyward/store-sqlite";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import type { Command } from "commander";
import { describe, expect, it, onTestFinished } from "vitest";
import { linksOf, readPage } from "../../../test/markdown.ts";
import type { Surroundings } from "../src/context.ts";
import { declareCompletion } from "../src/declarations/completion.ts";
import { kvProgramFor } from "../src/kv-program.ts";
import { programFor } from "../src/program.ts";
import { replicaResult } from "../src/results/replica-result.ts";
import { Results } from "../src/terminal/results.ts";
import { type Ended, executable, keywardReading, startKeyward } from "./keyward-process.ts";
import { serviceCases } from "./service-cases.ts";

const schemaFolder = fileURLToPath(new URL("../schemas", import.meta.url));
const page = fileURLToPath(new URL("../../../docs/command-json.md", import.meta.url));

/** Commands that print no JSON, each with the reason. */
const withoutJson: Readonly<Record<string, string>> = {
  completion: "prints a script for a shell",
};

/** A JSON object. */
type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function readSchema(file: string): Fields {
  const schema: unknown = JSON.parse(readFileSync(join(schemaFolder, file), "utf8"));
  if (!isFields(schema)) throw new TypeError(`${file} is not a JSON object`);
  return schema;
}

const schemas = new Map(readdirSync(schemaFolder).map((file) => [basename(file, ".json"), readSchema(file)]));
const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true });
for (const schema of schemas.values()) ajv.addSchema(schema);

function validatorOf(name: string): ValidateFunction {
  const validate = ajv.getSchema(`${name}.json`);
  if (validate === undefined) throw new Error(`There is no schema ${name}.json`);
  return validate;
}

/** The properties that are maps by the name of a store, the id of a key or the name of a namespace. */
const maps = ["stores", "recordsByKey", "recordsByStore", "namespaces"];

/**
 * Returns what a printed object would be with one invented property, without one property, or with a property of another
 * type, at every depth. A schema must refuse each of these. The value of a record may be anything.
 */
function* spoiled(printed: unknown, isMap = false): Generator<unknown> {
  if (Array.isArray(printed)) {
    for (const [index, item] of printed.entries()) {
      for (const other of spoiled(item)) yield printed.with(index, other);
    }
  }
  if (!isFields(printed)) return;
  yield { ...printed, invented: "text" };
  for (const [name, value] of Object.entries(printed)) {
    const others = Object.entries(printed).filter(([other]) => other !== name);
    if (!isMap) yield Object.fromEntries(others);
    if (name === "value") continue;
    yield Object.fromEntries([...others, [name, { invented: true }]]);
    for (const other of spoiled(value, maps.includes(name))) yield Object.fromEntries([...others, [name, other]]);
  }
}

/** Expects that the output is one line, which the schema accepts, and that the schema refuses each spoiled form of it. */
function expectValid(name: string, stdout: string): Fields {
  expect(stdout).toMatch(/^\{[^\n]*\}\n$/);
  const printed: unknown = JSON.parse(stdout);
  const validate = validatorOf(name);
  if (!validate(printed)) throw new Error(`${name}.json refuses ${stdout}${ajv.errorsText(validate.errors)}`);
  const accepted = [...spoiled(printed)].filter((other) => validate(other));
  expect(accepted.map((other) => JSON.stringify(other))).toEqual([]);
  if (!isFields(printed)) throw new TypeError("A result is an object");
  return printed;
}

const recordKey = "secret-session";
const sources = { KEYWARD_KEYS: "file:production.keyring", KEYWARD_STORE_SESSIONS: "sqlite:sessions.sqlite" };
const alone = ["--unregistered", "0s"];
const atOnce = [...alone, "--grace", "0s"];
const namespaced = ["--namespace", "sessions"];

/** An operator who runs commands with `--json` in a folder of their own. */
class Desk {
  readonly folder: string;
  /** The words of the command that the desk is about, such as `["keyring", "show"]`. */
  readonly #words: readonly string[];
  env: Readonly<Record<string, string>> = sources;

  constructor(folder: string, words: readonly string[]) {
    this.folder = folder;
    this.#words = words;
  }

  static async of(command: string): Promise<Desk> {
    const folder = await mkdtemp(join(tmpdir(), "keyward-json-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const words = leaves.get(command);
    if (words === undefined) throw new Error(`There is no command ${command}`);
    return new Desk(folder, words);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async #run(input: string, ...commandLine: readonly string[]): Promise<Ended> {
    const ended = await keywardReading(input, this.folder, this.env, ...commandLine, "--json");
    expect(ended.stdout + ended.stderr).not.toContain(recordKey);
    return ended;
  }

  /** Runs another command, which must succeed, and returns its result. */
  async do(...commandLine: readonly string[]): Promise<Fields> {
    const { exitCode, stdout } = await this.#run("", ...commandLine);
    expect({ commandLine, exitCode, stdout }).toMatchObject({ commandLine, exitCode: 0 });
    const result: unknown = JSON.parse(stdout);
    if (!isFields(result)) throw new TypeError("A result is an object");
    return result;
  }

  /** Runs the command, and returns its result, which its schema must accept. */
  async result(...flags: readonly string[]): Promise<Fields> {
    return await this.resultOf({}, ...flags);
  }

  /** Runs the command with an input on stdin, or so that it ends with another exit code than 0. */
  async resultOf({ input = "", exitCode = 0 }, ...flags: readonly string[]): Promise<Fields> {
    const ended = await this.#run(input, ...this.#words, ...flags);
    expect({ flags, exitCode: ended.exitCode, printed: ended.stdout }).toMatchObject({ flags, exitCode });
    return expectValid(this.#words.join("-"), ended.stdout);
  }

  /** Runs the command, which must fail with a code, and returns the error that it prints. */
  async failure(code: string, ...flags: readonly string[]): Promise<Fields> {
    const { exitCode, stdout } = await this.#run("", ...this.#words, ...flags);
    expect(exitCode).not.toBe(0);
    const { error } = expectValid("error", stdout);
    expect(error).toMatchObject({ code, message: expect.stringMatching(/./), hint: expect.stringMatching(/./) });
    if (!isFields(error)) throw new TypeError("An error is an object");
    return error;
  }

  /** Does what an application does with its store, and then ends the application. */
  async inApplication(work: (sessions: KeywardKeyv) => Promise<void>, name?: string): Promise<void> {
    const store = new SqliteStore(this.path("sessions.sqlite"));
    const keys = fileKeys(this.path("production.keyring"));
    const replica = name === undefined ? {} : { replica: { name } };
    const sessions = createKeyv({ store, keys, namespace: "sessions", ...replica });
    try {
      await work(sessions);
      await sessions.encryptedStore.settled();
    } finally {
      await sessions.disconnect();
      await store.disconnect();
    }
  }

  /** Writes stored values below the encryption, by the keys of their records. */
  async store(namespace: string, values: Readonly<Record<string, string>>): Promise<void> {
    const store = new SqliteStore(this.path("sessions.sqlite"));
    store.namespace = namespace;
    for (const [key, value] of Object.entries(values)) await store.set(key, value);
    await store.disconnect();
  }

  /** Makes a keyring with the key "one", and a store with three records under it. */
  async begin(): Promise<void> {
    await this.do("keyring", "create", "--id", "one", "--stores", "sessions");
    await this.inApplication(async (sessions) => {
      for (const index of [1, 2, 3]) await sessions.set(`${recordKey}:${index}`, { step: index });
    });
  }

  /** Writes a record under a key of another keyring, which has the same id as a key of this keyring or an unknown id. */
  async storeForged(keyId: string): Promise<void> {
    const key = `${recordKey}:forged`;
    const elsewhere = new SqliteStore(":memory:");
    const other = createKeyv({ store: elsewhere, keys: Keyring.generate(keyId), namespace: "sessions" });
    await other.set(key, "value");
    elsewhere.namespace = "sessions";
    const store = new SqliteStore(this.path("sessions.sqlite"));
    store.namespace = "sessions";
    await store.set(key, await elsewhere.get(key));
    await other.disconnect();
    for (const one of [elsewhere, store]) await one.disconnect();
  }
}

/** Returns the commands without subcommands, by the name of their schema. */
function leavesOf(command: Command, words: readonly string[] = []): ReadonlyMap<string, readonly string[]> {
  if (command.commands.length === 0) return new Map([[words.join("-"), words]]);
  return new Map(command.commands.flatMap((one) => [...leavesOf(one, [...words, one.name()])]));
}

async function programsFor(): Promise<Readonly<Record<"keyward" | "keyward-kv", Command>>> {
  const { stdin, stdout, stderr } = process;
  const { signal } = new AbortController();
  const shared = { stdin, stdout, stderr, results: new Results(stdout), env: {}, signal, allowStop: () => {} };
  const of = (name: Surroundings["name"]): Surroundings => ({ name, ...shared });
  const programs = { keyward: programFor(of("keyward")), "keyward-kv": kvProgramFor(of("keyward-kv")) };
  for (const program of Object.values(programs)) await declareCompletion(program, []);
  return programs;
}

const programs = await programsFor();
const leaves = leavesOf(programs.keyward);

/** Runs a command as a success and as a failure, in an empty folder. */
type Case = (desk: Desk) => Promise<void>;

/** For each command: what it prints as a result, in each of its forms, and as an error. */
const cases: Readonly<Record<string, Case>> = {
  ...serviceCases(expectValid),
  init: async (desk) => {
    desk.env = {};
    const flags = ["--store", "sessions=sqlite:sessions.sqlite", "--store", "flows=redis://127.0.0.1:1?timeoutMs=200"];
    expect(await desk.resultOf({ exitCode: 1 }, "--id", "one", ...flags)).toMatchObject({
      file: "keyward.config.json",
      keysSource: "file:production.keyring",
      keyringCreated: true,
      primary: "one",
      stores: { sessions: { ready: true, error: null }, flows: { ready: false, error: { code: "STORE_UNAVAILABLE" } } },
    });
    await desk.failure("USAGE");
    await rm(desk.path("keyward.config.json"));
    expect(await desk.result()).toMatchObject({ keyringCreated: false, primary: null, gitignoreLines: [] });
  },
  keygen: async (desk) => {
    expect(await desk.result()).toMatchObject({ format: "base64", key: expect.any(String), file: null });
    const { key } = await desk.result("--format", "keyring", "--id", "one");
    expect(Keyring.parse(String(key)).primary).toBe("one");
    expect(await desk.result("--out", "key")).toEqual({ format: "base64", key: null, file: "key" });
    await desk.failure("KEYRING_CONFLICT", "--out", "key");
  },
  "keyring-show": async (desk) => {
    await desk.failure("PROVIDER_UNAVAILABLE");
    await desk.begin();
    const { keyring } = await desk.result();
    expect(keyring).toMatchObject({
      primary: "one",
      keys: [{ id: "one", createdAtMs: expect.any(Number) }],
      storeNames: ["sessions"],
    });
    await writeFile(desk.path("key"), randomBytes(32).toString("base64"), { mode: 0o600 });
    expect(await desk.result("--keys", "file:key")).toMatchObject({ keyring: { keys: [{ createdAtMs: null }] } });
  },
  "keyring-create": async (desk) => {
    const created = await desk.result("--id", "one", "--stores", "sessions,flows");
    expect(created).toMatchObject({ keyId: "one", keyring: { primary: "one", storeNames: ["sessions", "flows"] } });
    await desk.failure("KEYRING_CONFLICT");
  },
  "keyring-stores": async (desk) => {
    await desk.begin();
    const both = ["--store", "sessions=sqlite:sessions.sqlite", "--store", "flows=sqlite:flows.sqlite"];
    const { keyring } = await desk.result("sessions", "flows", ...both);
    expect(keyring).toMatchObject({ storeNames: ["sessions", "flows"] });
    await desk.failure("NOT_CONFIRMED", "flows", ...both);
    await desk.failure("USAGE", "a b");
  },
  "keyring-add": async (desk) => {
    await desk.begin();
    expect(await desk.result("--id", "two")).toMatchObject({
      keyId: "two",
      changed: true,
      keyring: { primary: "one" },
    });
    await desk.failure("KEYRING_INVALID", "--id", "two");
  },
  "keyring-promote": async (desk) => {
    await desk.begin();
    await desk.do("keyring", "add", "--id", "two");
    expect(await desk.failure("KEY_UNKNOWN", "three", ...alone)).toMatchObject({ keyId: "three" });
    const promoted = await desk.result("two", ...alone);
    expect(promoted).toMatchObject({ keyId: "two", changed: true, formerPrimary: "one", keyring: { primary: "two" } });
    expect(await desk.result("two", ...alone)).toMatchObject({ changed: false, formerPrimary: null });
  },
  "keyring-enable": async (desk) => {
    await desk.begin();
    await desk.failure("KEY_UNKNOWN", "two");
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "disable", "two");
    expect(await desk.result("two")).toMatchObject({ keyId: "two", changed: true });
    expect(await desk.result("two")).toMatchObject({ changed: false });
  },
  "keyring-disable": async (desk) => {
    await desk.begin();
    await desk.failure("KEYRING_INVALID", "one");
    await desk.do("keyring", "add", "--id", "two");
    const { keyring } = await desk.result("two");
    expect(keyring).toMatchObject({ keys: [{ status: "enabled" }, { id: "two", status: "disabled" }] });
    // A directory cannot be saved, so its keyring stays as it is.
    await mkdir(desk.path("keys"));
    for (const id of ["one", "two"]) await writeFile(desk.path(`keys/${id}`), randomBytes(32).toString("base64"));
    await writeFile(desk.path("keys/primary"), "one");
    const flags = ["--keys", "file:keys", "--store", "flows=sqlite:flows.sqlite", "--empty-store", "flows"];
    const unchanged = { keys: [{ id: "one" }, { id: "two", status: "enabled" }] };
    expect(await desk.result("two", ...flags)).toMatchObject({ changed: false, keyring: unchanged });
  },
  "keyring-remove": async (desk) => {
    await desk.begin();
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "disable", "two");
    await desk.failure("NOT_CONFIRMED", "two");
    expect(await desk.result("two", "--yes")).toMatchObject({ keyId: "two", keyring: { keys: [{ id: "one" }] } });
  },
  retire: async (desk) => {
    await desk.begin();
    await desk.storeForged("two");
    await desk.do("keyring", "add", "--id", "two");
    const inUse = await desk.failure("KEY_IN_USE", "two");
    expect(inUse).toMatchObject({ keyId: "two", recordsByStore: { sessions: 1 } });
    expect(await desk.result("two", "--abandon-unreadable")).toMatchObject({
      keyId: "two",
      changed: true,
      abandonedGroups: [{ namespace: "sessions", keyId: "two", code: "KEY_MISMATCH", records: 1 }],
    });
  },
  "keyring-export": async (desk) => {
    await desk.begin();
    const exported = await desk.result("backup");
    expect(exported).toMatchObject({ file: "backup", encrypted: false, keyring: { primary: "one" } });
    await desk.failure("KEYRING_CONFLICT", "backup");
  },
  "keyring-import": async (desk) => {
    await desk.begin();
    await desk.failure("USAGE", "backup");
    await desk.do("keyring", "add", "--id", "two");
    await desk.do("keyring", "export", "backup");
    await desk.do("keyring", "disable", "two");
    await desk.do("keyring", "remove", "two", "--yes");
    expect(await desk.result("backup")).toMatchObject({ restored: false, changed: true, addedKeyIds: ["two"] });
    expect(await desk.result("backup")).toMatchObject({ restored: false, changed: false, addedKeyIds: [] });
    await rename(desk.path("production.keyring"), desk.path("former.keyring"));
    expect(await desk.result("backup")).toMatchObject({ restored: true, addedKeyIds: ["one", "two"] });
  },
  rotate: async (desk) => {
    await desk.begin();
    expect(await desk.result("--resume", ...alone)).toEqual({ dryRun: false, rotation: null });
    await desk.storeForged("one");
    await desk.failure("NO_REPLICAS");
    expect(await desk.result("--dry-run")).toMatchObject({ dryRun: true, rotation: null, from: "one", to: null });
    await desk.inApplication(async (sessions) => {
      await sessions.get("any");
      // The application writes its first heartbeat in the background.
      const steps = async () => (await desk.result("--dry-run", "--new-key", "two"))["steps"];
      const replicas = [expect.objectContaining({ name: "web-1" })];
      await expect
        .poll(steps, { timeout: 20_000 })
        .toContainEqual(expect.objectContaining({ step: "distribute", replicas }));
    }, "web-1");
    const begun = await desk.result("--new-key", "two", ...alone, "--until", "promote");
    expect(begun).toMatchObject({
      dryRun: false,
      rotation: { step: "drain" },
      stores: { sessions: { reencryption: null } },
    });
    expect(await desk.result("--dry-run")).toMatchObject({ rotation: { to: "two", disabledAtMs: null }, to: "two" });
    // The steps before and after the grace have one report.
    expect(await desk.result("--new-key", "two", ...atOnce, "--abandon-unreadable")).toMatchObject({
      rotation: { step: "done" },
      keyring: { keys: [{ id: "two" }] },
      stores: { sessions: { reencryption: { complete: false } } },
      abandonedGroups: [{ namespace: "sessions", keyId: "one", code: "KEY_MISMATCH", records: 1 }],
    });
  },
  rollback: async (desk) => {
    await desk.begin();
    await desk.failure("NO_ROTATION");
    await desk.do("rotate", "--new-key", "two", ...alone, "--until", "reencrypt");
    expect(await desk.result(...atOnce)).toMatchObject({
      rotation: { kind: "roll-back", from: "two", to: "one", step: "done" },
      stores: { sessions: { reencryption: { reencrypted: 3 }, madeUnreadable: 0 } },
    });
  },
  status: async (desk) => {
    await desk.begin();
    expect(await desk.result()).toEqual({ rotation: null });
    await desk.do("rotate", "--new-key", "two", ...alone);
    expect(await desk.result()).toMatchObject({ rotation: { step: "grace", disabledAtMs: expect.any(Number) } });
    await desk.failure("STORES_MISSING", "--store", "others=sqlite:sessions.sqlite");
  },
  revoke: async (desk) => {
    await desk.begin();
    await desk.failure("KEY_UNKNOWN", "two");
    const cost = await desk.resultOf({ exitCode: 2 }, "one");
    expect(cost).toEqual({ rotation: null, keyId: "one", records: 3, recordsByStore: { sessions: 3 } });
    const kept = await desk.result("one", "--order", "reencrypt-first", "--new-key", "two", ...atOnce);
    expect(kept).toMatchObject({ rotation: { kind: "revoke", order: "reencrypt-first", step: "done" } });
    const lost = await desk.result("two", "--order", "disable-first", "--new-key", "three", ...atOnce);
    expect(lost).toMatchObject({ rotation: { order: "disable-first" }, stores: { sessions: { madeUnreadable: 3 } } });
  },
  reencrypt: async (desk) => {
    await desk.begin();
    await desk.failure("STORE_INVALID", "--store", "sessions=sqlite:gone.sqlite");
    expect(await desk.result("--dry-run")).toMatchObject({ dryRun: true, stores: { sessions: { current: 3 } } });
    await desk.store("sessions", { [`${recordKey}:plain`]: JSON.stringify({ value: 1 }) });
    await desk.storeForged("two");
    const { stores } = await desk.resultOf({ exitCode: 1 });
    expect(stores).toMatchObject({
      sessions: {
        complete: false,
        unreadable: 2,
        unreadableGroups: expect.arrayContaining([
          { namespace: "sessions", keyId: null, code: "RECORD_NOT_SEALED", records: 1 },
          { namespace: "sessions", keyId: "two", code: "KEY_UNKNOWN", records: 1 },
        ]),
      },
    });
  },
  census: async (desk) => {
    await desk.begin();
    await desk.failure("STORE_INVALID", "--store", "sessions=sqlite:gone.sqlite");
    await desk.store("__proto__", { [`${recordKey}:plain`]: JSON.stringify({ value: 1 }) });
    await desk.store("", { [`${recordKey}:broken`]: "kw1.one.AAAA.", [`${recordKey}:other`]: "kw9" });
    const { stores } = await desk.result();
    expect(stores).toMatchObject({ sessions: { records: 6, recordsByKey: { one: expect.any(Number) } } });
    expect(JSON.stringify(stores)).toContain('"__proto__":{"records":1,"recordsByKey":{},"unsealed":1,"broken":0}');
    expect(await desk.result("--by", "namespace")).toEqual({ stores });
  },
  migrate: async (desk) => {
    await desk.begin();
    await desk.store("sessions", { [`${recordKey}:plain`]: JSON.stringify({ value: 1 }) });
    const formats = ["--from", "plaintext"];
    await desk.failure("NOT_CONFIRMED", ...formats, "--encrypt");
    const counted = await desk.result(...formats);
    expect(counted).toMatchObject({
      dryRun: true,
      stores: { sessions: { scanned: 4, envelopes: 3, formats: [{ format: "plaintext", records: 1 }] } },
    });
    await desk.store("sessions", { [`${recordKey}:foreign`]: "a:b" });
    const encrypted = await desk.resultOf({ exitCode: 1 }, ...formats, "--encrypt", "--yes");
    expect(encrypted).toMatchObject({
      dryRun: false,
      stores: { sessions: { unreadableShapes: [{ records: 1 }], reencryption: { reencrypted: 1 }, complete: false } },
    });
  },
  "refuse-plaintext": async (desk) => {
    await desk.begin();
    await desk.failure("VALUE_INVALID", "session");
    const refused = await desk.result("sessions", "--yes");
    expect(refused).toMatchObject({ changed: true, keyring: { encryptedNamespaces: ["sessions"] } });
    expect(await desk.result("sessions", "--yes")).toMatchObject({ namespace: "sessions", changed: false });
  },
  inspect: async (desk) => {
    await desk.begin();
    await desk.failure("NO_RECORD", `${recordKey}:4`, ...namespaced);
    await desk.store("sessions", { broken: "kw1.one.AAAA", foreign: "a:b" });
    const envelope = await desk.result(`${recordKey}:1`, ...namespaced);
    expect(envelope).toMatchObject({ kind: "envelope", store: "sessions", scope: null, keyId: "one" });
    const broken = await desk.result("broken", ...namespaced, "--scope", "tenant-7");
    expect(broken).toMatchObject({ kind: "broken", scope: "tenant-7", code: "RECORD_MALFORMED" });
    expect(await desk.result("foreign", ...namespaced)).toMatchObject({ kind: "foreign", sizeBytes: 3 });
  },
  "record-get": async (desk) => {
    await desk.begin();
    await desk.inApplication(async (sessions) => {
      await sessions.set("bytes", Buffer.from([0, 255]));
      await sessions.set("mixed", { count: 12n, bytes: Buffer.from("x") });
      await sessions.set("null", null);
    });
    await desk.failure("NO_RECORD", `${recordKey}:4`, ...namespaced);
    expect(await desk.result(`${recordKey}:1`, ...namespaced)).toEqual({ value: { step: 1 }, encoding: "json" });
    expect(await desk.result("bytes", ...namespaced)).toEqual({ value: "AP8=", encoding: "base64" });
    const mixed = await desk.result("mixed", ...namespaced);
    expect(mixed).toEqual({ value: { count: "12", bytes: "eA==" }, encoding: "mixed" });
    expect(await desk.result("null", ...namespaced)).toEqual({ value: null, encoding: "json" });
  },
  "record-put": async (desk) => {
    await desk.begin();
    await desk.failure("VALUE_INVALID", `${recordKey}:4`, ...namespaced);
    const put = (...flags: readonly string[]) =>
      desk.resultOf({ input: '{"step":4}' }, `${recordKey}:4`, ...namespaced, ...flags);
    expect(await put()).toEqual({ overwritten: false });
    expect(await put("--yes")).toEqual({ overwritten: true });
  },
  "record-delete": async (desk) => {
    await desk.begin();
    await desk.failure("NOT_CONFIRMED", `${recordKey}:1`, ...namespaced);
    expect(await desk.result(`${recordKey}:1`, ...namespaced, "--yes")).toEqual({ deleted: true });
    expect(await desk.result(`${recordKey}:1`, ...namespaced, "--yes")).toEqual({ deleted: false });
  },
  replicas: async (desk) => {
    await desk.begin();
    await desk.failure("STORE_INVALID", "--store", "sessions=sqlite:gone.sqlite");
    expect(await desk.result()).toEqual({ replicas: [] });
    await desk.inApplication(async (sessions) => {
      await sessions.get("any");
      await expect
        .poll(async () => (await desk.result())["replicas"], { timeout: 20_000 })
        .toMatchObject([
          { store: "sessions", name: "web-1", primary: "one", heldKeys: [{ keyId: "one" }], code: null },
        ]);
    }, "web-1");
    // A heartbeat that no key of the command decrypts.
    const unread = {
      id: "a",
      name: "a",
      generation: 0,
      primary: "",
      drained: false,
      lastSeenMs: 0,
      leaseMs: 1,
      lapsed: false,
    };
    const shown = replicaResult("sessions", { ...unread, problem: "KEY_UNKNOWN" });
    expect(expectValid("replicas", `${JSON.stringify({ replicas: [shown] })}\n`)).toMatchObject({
      replicas: [{ name: null, generation: null, primary: null, lastSeenAtMs: null, code: "KEY_UNKNOWN" }],
    });
  },
  doctor: async (desk) => {
    await desk.begin();
    expect(await desk.result()).toMatchObject({ problems: 0, warnings: 1 });
    await writeFile(desk.path("other.keyring"), exportKeyring(Keyring.generate("other")), { mode: 0o600 });
    const { problems, findings } = await desk.resultOf({ exitCode: 1 }, "--keys", "file:other.keyring");
    expect(problems).toBe(1);
    expect(findings).toContainEqual(
      expect.objectContaining({ level: "problem", subject: "store", store: "sessions", code: "OVERWRITE_REFUSED" }),
    );
    desk.env = {};
    await desk.failure("USAGE");
  },
  "kv-serve": async (desk) => {
    await desk.failure("USAGE", "--tenants", "tenants.json", "--store", "https://kv.example.com");
    const flags = ["--tenants", "tenants.json", "--store", "memory:", "--port", "0", "--json"];
    const server = startKeyward(desk.folder, {}, "kv", "serve", ...flags);
    onTestFinished(() => void server.kill("SIGKILL"));
    const ended = printedBy(server);
    await ended.lines(1);
    server.kill("SIGTERM");
    expect(await ended.exitCode).toBe(0);
    expect(expectValid("kv-serve", ended.printed())).toEqual({ url: expect.stringMatching(/^http:/) });
  },
  "kv-tenants-add": async (desk) => {
    const file = ["--tenants", "tenants.json"];
    const { apiKey, apiKeyId } = await desk.result(...file, "--tenant", "acme");
    expect(apiKey).toContain(`_${apiKeyId}_`);
    await desk.failure("VALUE_INVALID", ...file, "--tenant", "not a name");
  },
  "kv-tenants-list": async (desk) => {
    const file = ["--tenants", "tenants.json"];
    await desk.failure("STORE_UNAVAILABLE", ...file);
    await desk.do("kv", "tenants", "add", ...file, "--tenant", "acme", "--expires", "2100-01-31");
    await desk.do("kv", "tenants", "add", ...file, "--tenant", "other", "--scopes", "read");
    const { apiKeys } = await desk.result(...file);
    expect(apiKeys).toMatchObject([
      { tenant: "acme", namespace: "", state: "valid", expiresAtMs: Date.parse("2100-01-31"), revokedAtMs: null },
      { tenant: "other", scopes: ["read"], expiresAtMs: null },
    ]);
  },
  "kv-tenants-revoke": async (desk) => {
    const file = ["--tenants", "tenants.json"];
    const { apiKeyId } = await desk.do("kv", "tenants", "add", ...file, "--tenant", "acme");
    await desk.failure("VALUE_INVALID", "unknown", ...file);
    expect(await desk.result(String(apiKeyId), ...file)).toEqual({ apiKeyId });
  },
};

/** Collects what a command prints on stdout while it runs. */
function printedBy(child: ReturnType<typeof startKeyward>) {
  let stdout = "";
  child.stdout.on("data", (data) => {
    stdout += String(data);
  });
  return {
    printed: () => stdout,
    lines: (least: number) => expect.poll(() => stdout.split("\n").length).toBeGreaterThan(least),
    exitCode: once(child, "close").then(([code]: readonly unknown[]) => code),
  };
}

describe("the JSON schemas of the package", () => {
  it("exist for the error and for each command, and for nothing else", () => {
    const expected = [...leaves.keys()].filter((name) => !(name in withoutJson));
    expect([...schemas.keys()].toSorted()).toEqual([...expected, "error"].toSorted());
    expect(Object.keys(withoutJson).filter((name) => !leaves.has(name))).toEqual([]);
  });

  it("exist for each command of keyward-kv", () => {
    const names = [...leavesOf(programs["keyward-kv"]).keys()].filter((name) => !(name in withoutJson));
    expect(names.map((name) => `kv-${name}`).filter((name) => !schemas.has(name))).toEqual([]);
  });

  it.each([...schemas])("describe each property, and allow no other property: %s", (name, schema) => {
    expect(schema).toMatchObject({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      $id: `${name}.json`,
      title: expect.any(String),
    });
    expect(faultsOf(schema, name)).toEqual([]);
    expect(ajv.validateSchema(schema)).toBe(true);
  });

  it("define each name in only one way", () => {
    const definitions = [...schemas.values()].flatMap(({ $defs = {} }) => Object.entries(isFields($defs) ? $defs : {}));
    const forms = Map.groupBy(definitions, ([name]) => name);
    const differing = [...forms].filter(
      ([, found]) => new Set(found.map(([, definition]) => JSON.stringify(definition))).size > 1,
    );
    expect(differing.map(([name]) => name)).toEqual([]);
  });

  it("are published with the package", () => {
    const manifest: unknown = JSON.parse(readFileSync(join(schemaFolder, "../package.json"), "utf8"));
    expect(manifest).toMatchObject({ files: expect.arrayContaining(["schemas"]) });
  });

  it("are linked from the page for authors of scripts", () => {
    const links = linksOf(readPage("docs/command-json.md", readFileSync(page, "utf8"))).map(({ target }) => target);
    expect([...schemas.keys()].filter((name) => !links.includes(`../packages/cli/schemas/${name}.json`))).toEqual([]);
  });
});

/** Returns the places in a schema where a property has no description, or an object allows other properties. */
function faultsOf(schema: unknown, place: string): readonly string[] {
  if (Array.isArray(schema)) return schema.flatMap((one, index) => faultsOf(one, `${place}/${index}`));
  if (!isFields(schema)) return [];
  const { properties, description, required, additionalProperties, type } = schema;
  const faults: string[] = [];
  const names = isFields(properties) ? Object.keys(properties) : [];
  if (type === "object") {
    if (typeof description !== "string") faults.push(`${place} has no description`);
    if (isFields(properties) ? additionalProperties !== false : !isFields(additionalProperties)) {
      faults.push(`${place} allows other properties`);
    }
    if (isFields(properties) && JSON.stringify(required) !== JSON.stringify(names)) {
      faults.push(`${place} does not require each property`);
    }
  }
  for (const [name, property] of isFields(properties) ? Object.entries(properties) : []) {
    const text = isFields(property) ? property["description"] : undefined;
    if (typeof text !== "string" || text.length < 10) faults.push(`${place}/${name} has no description`);
    else if (/Ms$/.test(name) && !text.includes("milliseconds")) faults.push(`${place}/${name} has no unit`);
    else if (/Bytes$/.test(name) && !text.includes("bytes")) faults.push(`${place}/${name} has no unit`);
  }
  return [...faults, ...Object.entries(schema).flatMap(([name, one]) => faultsOf(one, `${place}/${name}`))];
}

describe("the check of a printed line against its schema", () => {
  const details = { keyId: null, requestId: null, retryAfterMs: null };
  const error = { code: "USAGE", message: "m", hint: "h", ...details, recordsByStore: { sessions: 1 } };
  const line = (value: unknown) => `${JSON.stringify(value)}\n`;

  it("accepts a line that its schema describes", () => {
    expect(expectValid("error", line({ error }))).toEqual({ error });
  });

  it.each([
    ["an invented property", line({ error: { ...error, invented: 1 } }), /additional properties/],
    ["an invented property beside the error", line({ error, invented: 1 }), /additional properties/],
    ["a missing property", line({ error: { ...error, hint: undefined } }), /required property 'hint'/],
    ["a property of another type", line({ error: { ...error, keyId: 1 } }), /must be string,null/],
    ["two lines", line({ error }) + line({ error }), /to match/],
    ["no line", "", /to match/],
    ["a line that is not an object", line(null), /to match/],
    ["a text before the line", `done\n${line({ error })}`, /to match/],
  ])("refuses %s", (_, printed, problem) => {
    expect(() => expectValid("error", printed)).toThrow(problem);
  });

  it("refuses a schema that allows an invented property or a missing one", () => {
    const properties = { a: { type: "object", properties: { b: { type: "integer" } }, required: ["b"] } };
    const schema = { type: "object", properties, required: ["a"], additionalProperties: false };
    const validate = new Ajv2020().compile(schema);
    const accepted = [...spoiled({ a: { b: 1 } })].filter((other) => validate(other));
    expect(accepted).toEqual([{ a: { b: 1, invented: "text" } }]);
  });
});

describe("a command with --json", () => {
  it("is run by a case of this test if it has a schema", () => {
    expect(Object.keys(cases).toSorted()).toEqual([...schemas.keys()].filter((name) => name !== "error").toSorted());
  });

  it.each(Object.entries(cases))(
    "prints one line that its schema accepts, for a result and for an error: %s",
    async (name, run) => {
      await run(await Desk.of(name));
    },
  );

  it("prints one line for each count with --watch, and no error when it is stopped", async () => {
    const desk = await Desk.of("census");
    await desk.begin();
    const child = startKeyward(desk.folder, desk.env, "census", "--watch", "--every", "100ms", "--json");
    onTestFinished(() => void child.kill("SIGKILL"));
    const ended = printedBy(child);
    await ended.lines(2);
    child.kill("SIGINT");
    expect(await ended.exitCode).toBe(130);
    for (const line of ended.printed().trimEnd().split("\n")) expectValid("census", `${line}\n`);
  });

  it("prints the error INTERRUPTED when it is stopped before it has a result", async () => {
    const desk = await Desk.of("rotate");
    await desk.begin();
    const child = startKeyward(desk.folder, desk.env, "rotate", "--unregistered", "10m", "--json");
    onTestFinished(() => void child.kill("SIGKILL"));
    const ended = printedBy(child);
    await new Promise<void>((resolve) => {
      child.stderr.on("data", (data) => String(data).includes("distribute") && resolve());
    });
    child.kill("SIGINT");
    expect(await ended.exitCode).toBe(130);
    expect(expectValid("error", ended.printed())).toMatchObject({ error: { code: "INTERRUPTED" } });
  });

  it("prints the error UNEXPECTED for a fault, without the message of the fault", async () => {
    const desk = await Desk.of("keyring-show");
    desk.env = {};
    const config = `export default { keys: () => ({ load: async () => { throw new TypeError("${recordKey}") } }) };`;
    await writeFile(desk.path("keyward.config.js"), config);
    await writeFile(desk.path("package.json"), '{ "type": "module" }');
    expect(await desk.failure("UNEXPECTED")).toMatchObject({ message: expect.stringContaining("TypeError") });
  });

  it("prints the result, and no second line for the error, if a store cannot be closed afterwards", async () => {
    const desk = await Desk.of("census");
    await desk.begin();
    const store = new URL("../../store-sqlite/src/index.ts", import.meta.url).href;
    await writeFile(desk.path("package.json"), '{ "type": "module" }');
    await writeFile(
      desk.path("keyward.config.js"),
      `import { SqliteStore } from ${JSON.stringify(store)};
      class Unclosable extends SqliteStore {
        async disconnect() { await super.disconnect(); throw new TypeError("${recordKey}"); }
      }
      const path = ${JSON.stringify(desk.path("sessions.sqlite"))};
      export default { stores: { sessions: () => new Unclosable(path) } };`,
    );
    desk.env = { KEYWARD_KEYS: sources.KEYWARD_KEYS };
    expect(await desk.resultOf({ exitCode: 1 })).toMatchObject({ stores: { sessions: { records: 3 } } });
  });

  it.each([
    [["--json"], "The command line names no command"],
    [["keyring", "--json"], "The command line names no command"],
    [["rotat", "--json"], "unknown command 'rotat' (Did you mean rotate?)"],
    [["--json", "census", "--unknown"], "unknown option '--unknown'"],
    [["revoke", "--json"], "missing required argument 'id'"],
    [["keygen", "--format", "binary", "--json"], expect.stringContaining("Allowed choices are base64, hex, keyring")],
  ])("prints the error USAGE for %j", async (commandLine, message) => {
    const ended = await keywardReading("", tmpdir(), {}, ...commandLine);
    expect(ended.exitCode).toBe(2);
    expect(expectValid("error", ended.stdout)).toMatchObject({ error: { code: "USAGE", message } });
  });

  it.each([
    [["revoke"], "keyward revoke --help", "the arguments and flags"],
    [["keyring", "nonsense"], "keyward keyring --help", "the commands"],
    [["tokens", "create"], "keyward tokens create --help", "the arguments and flags"],
    [["nonsense"], "keyward --help", "the commands"],
  ])("names the help of the command for the mistake in %j", async (commandLine, help, listed) => {
    const { stderr } = await keywardReading("", tmpdir(), {}, ...commandLine);
    expect(stderr).toContain(`(${help} lists ${listed})\n`);
    const { stdout } = await keywardReading("", tmpdir(), {}, ...commandLine, "--json");
    expect(JSON.parse(stdout)).toMatchObject({ error: { hint: `\`${help}\` lists ${listed}.` } });
  });

  // The examples need jq, which is not a part of this workspace.
  it.skipIf(spawnSync("jq", ["--version"]).status !== 0)(
    "prints output that each example of docs/command-json.md can parse",
    async () => {
      const desk = await Desk.of("census");
      await desk.begin();
      await writeFile(
        desk.path("keyward"),
        `#!/bin/sh\nexec "${process.execPath}" --conditions development "${executable}" "$@"\n`,
        { mode: 0o700 },
      );
      const env = { ...desk.env, PATH: `${desk.folder}:${process.env["PATH"]}`, HOME: desk.folder };
      const blocks = readPage("docs/command-json.md", readFileSync(page, "utf8")).blocks.map(({ code }) =>
        code.replaceAll("2026-11", "one"),
      );
      const run = (code: string) => spawnSync("sh", ["-c", code], { cwd: desk.folder, env, encoding: "utf8" });
      const [first = "", rotation = "", problems = ""] = blocks;
      expect(run(first)).toMatchObject({ stdout: "one\n3\n", stderr: "" });
      expect(run(rotation)).toMatchObject({ stdout: expect.stringMatching(/^later: If the processes/), stderr: "" });
      expect(run(problems)).toMatchObject({ stdout: "", stderr: "" });
      expect(run(rotation.replace("rotate", "rotate --new-key one"))).toMatchObject({ status: 1, stdout: "" });
      await desk.do("rotate", "--new-key", "two", ...alone);
      expect(run(rotation.replace("rotate", "rotate --unregistered 0s"))).toMatchObject({
        stdout: "the rotation is at step grace\n",
      });
      await writeFile(desk.path("production.keyring"), exportKeyring(Keyring.generate("other")), { mode: 0o600 });
      expect(run(problems).stdout).toContain("sessions: ");
      expect(blocks).toHaveLength(3);
    },
  );

  it("treats --json after -- as an argument", async () => {
    const ended = await keywardReading("", tmpdir(), {}, "retire", "one", "--", "--json");
    expect(ended).toMatchObject({ exitCode: 2, stdout: "" });
  });
});
