import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { census, EncryptedStore, exportKeyring, Keyring, replicas, rotateKey } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { guardMaterial } from "../store/secrets.ts";
import { keyIdIn } from "../store/store/inner-stores.ts";
import { openStore } from "./open-store.ts";
import { testTimeoutMs } from "./settings.ts";
import { temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const script = fileURLToPath(new URL("./rotation-process.ts", import.meta.url));

/** Another process, whose output is read line by line. */
class Process {
  readonly child: ChildProcess;
  readonly exited: Promise<unknown[]>;
  readonly lines: string[] = [];

  constructor(role: string, ...given: readonly string[]) {
    this.child = spawn(process.execPath, [script, role, ...given], { stdio: ["ignore", "pipe", "inherit"] });
    this.exited = once(this.child, "exit");
    const { stdout } = this.child;
    if (stdout !== null) createInterface({ input: stdout }).on("line", (line) => this.lines.push(line));
    onTestFinished(async () => {
      if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill("SIGKILL");
      await this.exited;
    });
  }

  async told(line: string): Promise<void> {
    await vi.waitFor(() => expect(this.lines).toContain(line), { timeout: 20_000, interval: 5 });
  }

  /** Resolves when the process has written one of some lines, or has ended. */
  async toldOneOf(lines: readonly string[]): Promise<void> {
    const hasTold = () => this.child.exitCode !== null || this.lines.some((line) => lines.includes(line));
    await vi.waitFor(() => expect(hasTold()).toBe(true), { timeout: 20_000, interval: 5 });
  }

  /** Resolves when the process is stopped by SIGSTOP. */
  async halted(): Promise<void> {
    this.child.kill("SIGUSR2");
    const state = () => execFileSync("ps", ["-o", "stat=", "-p", String(this.child.pid)], { encoding: "utf8" });
    await vi.waitFor(() => expect(state()).toMatch(/^T/), { timeout: 20_000, interval: 20 });
  }

  /** Ends an application and returns the calls that failed in it. */
  async end(): Promise<unknown> {
    this.child.kill("SIGTERM");
    await this.exited;
    return JSON.parse(this.lines.at(-1) ?? "null");
  }
}

/** Creates a keyring file and a store, and starts applications "one" and "two" on it. Also opens the store for an operator. */
async function atWork(server?: string) {
  const folder = await temporaryFolder();
  const [address, keyring] = [server ?? join(folder, "records.db"), join(folder, "keyring.json")];
  await writeFile(keyring, exportKeyring(guardMaterial(Keyring.generate("old"))), { mode: 0o600 });
  const keys = fileKeys(keyring);
  const store = new EncryptedStore(openStore(address), { keys });
  onTestFinished(() => store.disconnect());
  const one = new Process("application", address, keyring, "one");
  const two = new Process("application", address, keyring, "two");
  for (const each of [one, two]) await each.told("ready");
  const keyIds = async () => Keyring.parse(await readFile(keyring, "utf8")).keys.map(({ id }) => id);
  return { address, keyring, keys, store, one, two, keyIds };
}

it.skipIf(process.platform === "win32")(
  "a process that is paused during a whole rotation, and then resumed, writes nothing under the removed key",
  options,
  async () => {
    const { address, keys, store, one, two, keyIds } = await atWork();
    await one.halted();
    const { to } = await rotateKey(keys, { stores: { records: store }, graceMs: 0, newKey: { id: "new" } });
    expect(await keyIds()).toEqual(["new"]);
    expect((await replicas(store)).map(({ name }) => name)).toEqual(["two"]);
    const raw = openStore(address);
    onTestFinished(() => raw.disconnect());
    expect(await raw.has("one-back")).toBe(false);

    one.child.kill("SIGCONT");
    await vi.waitFor(async () => expect(await raw.has("one-back")).toBe(true), { timeout: 20_000, interval: 5 });
    expect(keyIdIn(await raw.get("one-back"))).toBe("new");
    expect([...(await census(store)).keys.keys()]).toEqual([to]);
    const listed = await replicas(store);
    expect(listed.map(({ name, primary }) => `${name} ${primary}`).sort()).toEqual(["one new", "two new"]);
    expect(await one.end()).toEqual([]);
    expect(await two.end()).toEqual([]);
    expect(await replicas(store)).toEqual([]);
  },
);

it(
  "a rotation changes the key only once if its operator process is killed at each step and started again",
  options,
  async () => {
    const { address, keyring, store, one, two, keyIds } = await atWork();
    const steps = ["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"];
    for (const index of steps.keys()) {
      const operator = new Process("operator", address, keyring, "new");
      // The process before may have begun this step, too, before it was killed. Then this one begins with a later step.
      await operator.toldOneOf(steps.slice(index));
      operator.child.kill("SIGKILL");
      await operator.exited;
    }
    // The last run may have finished before it was killed. Then this run has nothing to do.
    const [exitCode] = await new Process("operator", address, keyring, "new").exited;
    expect(exitCode).toBe(0);
    expect(await keyIds()).toEqual(["new"]);
    expect([...(await census(store)).keys.keys()]).toEqual(["new"]);
    expect(await one.end()).toEqual([]);
    expect(await two.end()).toEqual([]);
  },
);

async function expectOneKeyOfTwoOperators(server?: string): Promise<void> {
  const { address, keyring, one, two, keyIds, store } = await atWork(server);
  const operators = [
    new Process("operator", address, keyring, "new"),
    new Process("operator", address, keyring, "new"),
  ];
  const exits = await Promise.all(operators.map((each) => each.exited));
  expect(exits.map(([exitCode]) => exitCode)).toEqual([0, 0]);
  expect(await keyIds()).toEqual(["new"]);
  expect(Keyring.parse(await readFile(keyring, "utf8")).generation).toBe(5);
  expect([...(await census(store)).keys.keys()]).toEqual(["new"]);
  expect(await one.end()).toEqual([]);
  expect(await two.end()).toEqual([]);
}

it("two operator processes that rotate at the same time change the key only once, over SQLite", options, () =>
  expectOneKeyOfTwoOperators(),
);

describeWithRedis(servers, "a Redis server", () => {
  it("two operator processes that rotate at the same time change the key only once, over Redis", options, async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await expectOneKeyOfTwoOperators(node.url);
  });
});

it("a process exits when it has nothing else to do, although its heartbeat timer is set", options, async () => {
  const { address, keyring, one, two } = await atWork();
  const visitor = new Process("visitor", address, keyring, "visitor");
  expect((await visitor.exited)[0]).toBe(0);
  expect(visitor.lines).toEqual(["ready"]);
  await one.end();
  await two.end();
});
