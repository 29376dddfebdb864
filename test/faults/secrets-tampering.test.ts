import { join } from "node:path";
import { backup, DatabaseSync } from "node:sqlite";
import { EncryptedStore, Keyring, type StoredValue } from "@keyward/core";
import { SecretsAdmin, scopeOfServiceRecord, serviceNamespace } from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { guardMaterial } from "../store/secrets.ts";
import { contradictionsIn } from "./secrets-leftovers.ts";
import { operations, prepare, processOf, type ServiceProcess, type World } from "./secrets-operations.ts";
import { acceptingAudit, codeOf, recordsOf } from "./secrets-view.ts";
import { temporaryFolder } from "./sqlite.ts";

/** A service in memory. The test changes its records, as an attacker could who can write to the store. */
interface Tampered {
  readonly store: MemoryStore;
  /** The stored bytes of the records. */
  readonly raw: MemoryStore;
  readonly keys: Keyring;
  readonly world: World;
  readonly process: ServiceProcess;
  readonly reader: SecretsReader;
  readonly problems: unknown[];
  /** Opens the service in another process, which has read nothing yet. */
  restart(): { readonly admin: SecretsAdmin; readonly reader: SecretsReader };
}

async function startTampered(): Promise<Tampered> {
  const store = new MemoryStore();
  const keys = guardMaterial(Keyring.generate("tampered"));
  const problems: unknown[] = [];
  const restart = () => {
    const onProblem = (problem: unknown) => problems.push(problem);
    const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit, onProblem });
    const reader = new SecretsReader({ store, keys, onProblem });
    onTestFinished(async () => {
      await reader.close();
      await admin.close();
    });
    return { admin, reader };
  };
  const { admin, reader } = restart();
  const world = await prepare(admin);
  const raw = store.namespaced(serviceNamespace);
  return { store, raw, keys, world, process: await processOf(admin, world), reader, problems, restart };
}

/** Returns the key of the only record for which `matches` returns true. */
async function keyOf({ store, keys }: Tampered, matches: (key: string, value: unknown) => boolean): Promise<string> {
  const found = [...(await recordsOf({ store, keys }))].filter(([key, value]) => matches(key, value));
  const [first] = found;
  if (first === undefined || found.length > 1) throw new Error(`${found.length} records match`);
  return first[0];
}

async function take({ raw }: Tampered, key: string): Promise<StoredValue> {
  const stored = await raw.get(key);
  if (stored === undefined) throw new Error(`There is no record ${key}`);
  return stored;
}

async function codeOfCall(reader: SecretsReader, token: string, slug = "github"): Promise<string> {
  return await reader.forCall(token, slug).then(() => "answered", codeOf);
}

const valueNamed = (secret: string) => (key: string, value: unknown) =>
  key.startsWith("value/") && JSON.stringify(value).includes(`"name":"${secret}"`);
const endsWith = (end: string) => (key: string) => key.endsWith(end);

describe("an older record that an attacker has put back", () => {
  it("is refused by each process that has read the revocation, if the record contains a revoked token", async () => {
    const service = await startTampered();
    const { raw, world, process, reader } = service;
    const key = await keyOf(service, endsWith(`/${world.ids.member}`));
    const tokenKey = key.startsWith("token/") ? key : "";
    const before = await take(service, tokenKey);
    await process.admin.revokeToken(process.as.admin, world.ids.member);
    expect(await codeOfCall(reader, world.tokens.member)).toBe("TOKEN_REFUSED");
    await raw.set(tokenKey, before);
    expect(await codeOfCall(reader, world.tokens.member)).toBe("RECORD_ROLLED_BACK");
    await expect(process.admin.revokeToken(process.as.admin, world.ids.member)).rejects.toMatchObject({
      code: "RECORD_ROLLED_BACK",
    });
  });

  it("releases no secret, even in a process that has read nothing before, if the record contains the earlier URL of a server", async () => {
    const service = await startTampered();
    const { raw, world, process, reader, restart } = service;
    const key = await keyOf(service, (each) => each.startsWith("server/") && each.endsWith("/jira"));
    const [before, formerValue] = [await take(service, key), await keyOf(service, valueNamed("KEY"))];
    await process.admin.updateServer(process.as.admin, "jira", { url: "https://new.example.com" });
    await process.admin.setSecret(process.as.admin, "jira", { name: "KEY", value: "value for the new origin" });
    expect(await codeOfCall(reader, world.tokens.member, "jira")).toBe("answered");
    await raw.set(key, before);
    expect(await codeOfCall(reader, world.tokens.member, "jira")).toBe("RECORD_ROLLED_BACK");
    expect(await codeOfCall(restart().reader, world.tokens.member, "jira")).toBe("SECRET_UNUSABLE");
    // Stores the new value under the key of the value that the earlier server record names.
    await raw.set(formerValue, await take(service, await keyOf(service, valueNamed("KEY"))));
    expect(await codeOfCall(restart().reader, world.tokens.member, "jira")).toBe("RECORD_TAMPERED");
  });
});

describe("a record that an attacker has moved", () => {
  it.each([
    {
      name: "a value to another secret of its server",
      from: valueNamed("ONE"),
      to: valueNamed("TWO"),
      code: "RECORD_TAMPERED",
    },
    { name: "a value to another server", from: valueNamed("KEY"), to: valueNamed("ONE"), code: "KEY_MISMATCH" },
    { name: "a value to another workspace", from: valueNamed("SPARE"), to: valueNamed("ONE"), code: "KEY_MISMATCH" },
    {
      name: "a server to another slug",
      code: "RECORD_TAMPERED",
      from: (key: string) => key.startsWith("server/") && key.endsWith("/jira"),
      to: (key: string, value: unknown) =>
        key.startsWith("server/") && key.endsWith("/github") && JSON.stringify(value).includes('"name":"ONE"'),
    },
  ])("is refused under its new key, and no value is released: $name", async ({ from, to, code }) => {
    const service = await startTampered();
    const { raw, world, reader, restart } = service;
    await raw.set(await keyOf(service, to), await take(service, await keyOf(service, from)));
    expect(await codeOfCall(reader, world.tokens.member)).toBe(code);
    expect(await codeOfCall(restart().reader, world.tokens.member)).toBe(code);
    expect(await codeOfCall(reader, world.tokens.spare)).toBe("answered");
  });

  it("is refused if it is the record of an admin's token under the id of a member's token, so the member stays a member", async () => {
    const service = await startTampered();
    const { raw, world, restart } = service;
    const keyOfToken = async (id: string) =>
      keyOf(service, (key) => key.startsWith("token/") && key.endsWith(`/${id}`));
    await raw.set(await keyOfToken(world.ids.member), await take(service, await keyOfToken(world.ids.admin)));
    expect(await codeOfCall(restart().reader, world.tokens.member)).toBe("RECORD_TAMPERED");
    expect(await codeOfCall(restart().reader, world.tokens.other)).toBe("answered");
  });
});

/** Writes a record whose form the service does not know, encrypted under the right key. */
async function plant({ store, keys }: Tampered, key: string, value: unknown): Promise<void> {
  const encrypted = new EncryptedStore(store.namespaced(serviceNamespace), { keys, scope: scopeOfServiceRecord });
  encrypted.namespace = serviceNamespace;
  await encrypted.set(key, JSON.stringify(value));
  await encrypted.disconnect();
}

describe("a record whose form the service does not know", () => {
  it.each([
    { name: "the installation", of: (key: string) => key === "service" },
    { name: "a workspace", of: (key: string, value: unknown) => isWorkspace(key, value, "main") },
    { name: "a server", of: (key: string, value: unknown) => isServerOf(key, value, "ONE") },
    { name: "a value", of: valueNamed("ONE") },
    { name: "the page of a list", of: (key: string) => key === "list/workspaces/0" },
    { name: "the head of a list", of: (key: string) => key === "list/workspaces/head" },
  ])("is refused and not overwritten: $name", async ({ of }) => {
    for (const change of [{ v: 2 }, { later: true }, undefined]) {
      const service = await startTampered();
      const { raw, world, process, restart } = service;
      const key = await keyOf(service, of);
      const original: unknown = (await recordsOf(service)).get(key);
      await plant(service, key, change === undefined ? "text" : { ...Object(original), ...change });
      const planted = await take(service, key);
      const { admin, reader } = restart();
      const codes = [
        await codeOfCall(reader, world.tokens.member),
        await admin.ready().then(() => "done", codeOf),
        await admin.initialize().then(() => "done", codeOf),
      ];
      if (key.startsWith("value/")) expect(codes[0]).toBe("RECORD_INVALID");
      for (const { run } of operations) {
        codes.push(await run({ ...process, admin }, world, "nobody").then(() => "done", codeOf));
      }
      expect(codes).toContain("RECORD_INVALID");
      // The record of a value is deleted together with its secret, without being read.
      if (!key.startsWith("value/")) expect(await raw.get(key)).toEqual(planted);
    }
  });

  it("is reported as a problem by a sweep, and does not make the sweep fail", async () => {
    const service = await startTampered();
    const { process, problems, restart } = service;
    const key = await keyOf(service, (each, value) => isServerOf(each, value, "ONE"));
    await plant(service, key, { v: 2 });
    const left = { kind: "header", header: "X-Left" } as const;
    await process.admin.setSecret(process.as.admin, "jira", { name: "LEFT", value: "value that expires", rule: left });
    const { admin } = restart();
    await admin.sweep();
    expect(problems).toEqual([expect.objectContaining({ code: "RECORD_INVALID" })]);
  });
});

function isWorkspace(key: string, value: unknown, name: string): boolean {
  return key.startsWith("workspace/") && JSON.stringify(value).includes(`"name":"${name}"`);
}

function isServerOf(key: string, value: unknown, secret: string): boolean {
  return key.startsWith("server/") && JSON.stringify(value).includes(`"name":"${secret}"`);
}

describe("the wrong keyring", () => {
  it("makes every call and change reject, and the store stays unchanged", async () => {
    const { store, world, process } = await startTampered();
    const dump = async () => (await store.scan({ limit: 10_000 })).entries.map(({ key, value }) => [key, value]);
    const before = await dump();
    const keys = guardMaterial(Keyring.generate("tampered"));
    const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
    const reader = new SecretsReader({ store, keys });
    const codes = [
      await codeOfCall(reader, world.tokens.member),
      await admin.initialize().then(() => "done", codeOf),
      await admin.ready().then(() => "done", codeOf),
      await admin.authenticate(world.tokens.admin).then(() => "done", codeOf),
    ];
    for (const { run, name } of operations) {
      codes.push(`${name}: ${await run({ ...process, admin }, world, "nobody").then(() => "done", codeOf)}`);
    }
    expect(codes.filter((code) => !/(?:KEY_MISMATCH|OVERWRITE_REFUSED)$/.test(code))).toEqual([]);
    expect(await dump()).toEqual(before);
    await admin.close();
    await reader.close();
  });
});

describe("a restore of yesterday's backup", () => {
  it("is refused by a running process, and revokeTokensBefore() after a restart makes all earlier tokens invalid", async () => {
    const folder = await temporaryFolder();
    const [path, saved] = [join(folder, "service.db"), join(folder, "backup.db")];
    const keys = guardMaterial(Keyring.generate("restored"));
    const open = () => {
      const store = new SqliteStore(path, { synchronous: "normal" });
      const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
      const reader = new SecretsReader({ store, keys });
      onTestFinished(() => store.disconnect());
      return { store, admin, reader };
    };
    const running = open();
    const world = await prepare(running.admin);
    const { as } = await processOf(running.admin, world);
    await copyDatabase(path, saved);
    await running.admin.setSecret(as.admin, "github", { name: "ONE", value: "value of today" });
    await running.admin.revokeToken(as.admin, world.ids.other);
    await running.admin.updateServer(as.admin, "jira", { url: "https://today.example.com" });
    for (const slug of ["github", "jira"]) await codeOfCall(running.reader, world.tokens.member, slug);
    expect(await codeOfCall(running.reader, world.tokens.other)).toBe("TOKEN_REFUSED");

    await copyDatabase(saved, path);
    const rolledBack = { code: "RECORD_ROLLED_BACK" };
    for (const slug of ["github", "jira"]) {
      await expect(running.reader.forCall(world.tokens.member, slug)).rejects.toMatchObject(rolledBack);
    }
    await expect(running.reader.forCall(world.tokens.other, "github")).rejects.toMatchObject(rolledBack);
    const again = { name: "ONE", value: "value after the restore" };
    await expect(running.admin.setSecret(as.admin, "github", again)).rejects.toMatchObject(rolledBack);

    const { store, admin, reader } = open();
    expect(await codeOfCall(reader, world.tokens.other)).toBe("answered");
    const revoked = await admin.revokeTokensBefore(admin.localOperator(), world.madeBefore);
    expect(revoked).toBe(7);
    for (const token of [world.tokens.member, world.tokens.other, world.tokens.spare]) {
      expect(await codeOfCall(reader, token)).toBe("TOKEN_REFUSED");
    }
    for (const token of [world.tokens.admin, world.tokens.second, world.tokens.operator]) {
      await expect(admin.authenticate(token)).rejects.toMatchObject({ code: "TOKEN_REFUSED" });
    }
    const recovered = await admin.recoverToken(admin.localOperator(), {
      workspace: "main",
      owner: "after the restore",
    });
    const caller = await admin.authenticate(recovered.token);
    const member = await admin.createToken(caller, { owner: "member", role: "member" });
    const { secrets } = await reader.forCall(member.token, "github");
    expect(secrets.map(({ value }) => value.reveal()).sort()).toEqual(["first value of ONE", "first value of TWO"]);
    await admin.setSecret(caller, "github", again);
    expect(contradictionsIn(await recordsOf({ store, keys }))).toEqual([]);
    for (const each of [running, { admin, reader }]) {
      await each.admin.close();
      await each.reader.close();
    }
  });
});

/** Copies the records of a SQLite file into another SQLite file, which processes may have open. */
async function copyDatabase(from: string, to: string): Promise<void> {
  const source = new DatabaseSync(from);
  try {
    await backup(source, to);
  } finally {
    source.close();
  }
}
