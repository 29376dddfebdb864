import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { Fleet } from "../../../test/faults/replica-fleet.ts";
import { seed, testTimeoutMs } from "../../../test/faults/settings.ts";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../../../test/servers/openbao.ts";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { executable } from "./keyward-process.ts";
import { Runbook } from "./runbook.ts";

const redisServers = await findRedisServers();
const vaultServers = await findVaultServers();
const toTheGrace = ["add", "distribute", "promote", "drain", "reencrypt", "disable"];
const steps = [...toTheGrace, "grace", "remove"];

/** What the page leaves to its reader. */
interface Reader {
  /** Settings of the reader instead of those of the configuration file on the page. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly env: Readonly<Record<string, string>>;
  /** The source of the keys, for the processes of the application. */
  readonly source: string;
  readonly address: string;
  loseKeyring(): Promise<void>;
}

/** The shells of an operator. Each command line runs in a shell of its own, in a folder of its own. */
class Shells {
  readonly #config: Readonly<Record<string, unknown>>;
  readonly #env: Readonly<Record<string, string>>;

  private constructor(config: Readonly<Record<string, unknown>>, env: Readonly<Record<string, string>>) {
    this.#config = config;
    this.#env = env;
  }

  /** Makes the home directory of an operator, who has `keyward` on the PATH and a passphrase in a file. */
  static async open(config: Readonly<Record<string, unknown>>, env: Reader["env"]): Promise<Shells> {
    const home = await newFolder();
    const bin = join(home, "bin");
    await mkdir(bin);
    const script = `#!/bin/sh\nexec "${process.execPath}" --conditions development "${executable}" "$@"\n`;
    await writeFile(join(bin, "keyward"), script);
    await chmod(join(bin, "keyward"), 0o755);
    await writeFile(join(home, "keyward.passphrase"), "a passphrase of the drill\n", { mode: 0o600 });
    const { PATH = "", ...others } = commandEnvironment({});
    return new Shells(config, { ...others, PATH: `${bin}:${PATH}`, HOME: home, ...env });
  }

  /** Returns shells whose configuration has a grace of 0, as if the grace had passed. */
  afterGrace(): Shells {
    return new Shells({ ...this.#config, rotation: { graceMs: 0 } }, this.#env);
  }

  /** Runs a command line to its end, and expects its exit code. Returns what it prints on stdout. */
  async run(line: string, expected = 0): Promise<string> {
    const child = await this.#start(line);
    const [printed, problems, [exitCode]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, "exit"),
    ]);
    expect({ line, exitCode, problems: exitCode === expected ? "" : problems + printed }).toEqual({
      line,
      exitCode: expected,
      problems: "",
    });
    return printed;
  }

  /**
   * Runs a command line again and again, and kills its shell each time it prints that it begins a step that is not in
   * `begun`, until the command line succeeds. Returns what it prints on stdout then.
   */
  async runThroughKills(line: string, begun: string[]): Promise<string> {
    for (;;) {
      const printed = await this.#runUntilNextStep(line, begun);
      if (printed !== undefined) return printed;
    }
  }

  /** Runs a command line until it prints that it begins a step, and then kills its shell. */
  async runUntil(step: string, line: string): Promise<void> {
    const printed = await this.#runUntilNextStep(line, steps.slice(0, steps.indexOf(step)));
    expect(printed).toBeUndefined();
  }

  async #runUntilNextStep(line: string, begun: string[]): Promise<string | undefined> {
    const child = await this.#start(line);
    const ended = once(child, "exit");
    const printed = text(child.stdout);
    const problems: string[] = [];
    for await (const shown of createInterface(child.stderr)) {
      problems.push(shown);
      if (!steps.includes(shown) || begun.includes(shown)) continue;
      begun.push(shown);
      kill(child);
    }
    const [exitCode, signal] = await ended;
    if (signal === "SIGKILL") return undefined;
    expect({ line, exitCode, problems }).toEqual({ line, exitCode: 0, problems: expect.any(Array) });
    return await printed;
  }

  async #start(line: string) {
    const cwd = await newFolder();
    await writeFile(join(cwd, "keyward.config.json"), JSON.stringify(this.#config));
    // In a process group of its own, so that the command is killed with its shell.
    const stdio: ["ignore", "pipe", "pipe"] = ["ignore", "pipe", "pipe"];
    const child = spawn("sh", ["-c", line], { cwd, env: this.#env, stdio, detached: true });
    onTestFinished(() => kill(child));
    return child;
  }
}

function kill({ pid, exitCode, signalCode }: ChildProcess): void {
  if (pid !== undefined && exitCode === null && signalCode === null) process.kill(-pid, "SIGKILL");
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-drill-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until `keyward doctor` finds nothing to do. */
async function expectGoodHealth(shells: Shells, line: string): Promise<void> {
  await expect.poll(() => shells.run(line), { timeout: testTimeoutMs }).not.toMatch(/PROBLEM|warning/);
}

/** Follows `docs/rotation.md` from the top to its end, while four processes read and write. */
async function drill({ config, env, source, address, loseKeyring }: Reader): Promise<void> {
  const page = new Runbook();
  const shells = await Shells.open({ ...page.config, ...config }, env);
  await shells.run("keyward keyring create --id 2026-11 --stores sessions");
  const fleet = await Fleet.start({ address, source, env, size: 4, pauseMs: 5, seed });

  await expectGoodHealth(shells, page.line("Check the requirements"));
  const replicas = await shells.run(page.line("Register the replicas"));
  expect(replicas.match(/^sessions +replica-\d .* 2026-11 .* seen /gm)).toHaveLength(4);
  await shells.run(page.line("Back the keyring up"));
  expect(await shells.run(page.line("Plan the rotation"))).toMatch(/^remove +remove key "2026-11"$/m);

  const begun: string[] = [];
  const rotate = page.line("Run the rotation");
  const rotation = 'rotation from key "2026-11" to "2026-12"';
  expect(await shells.runThroughKills(rotate, begun)).toBe(`${rotation}: the next step is grace\n`);
  expect(begun).toEqual(toTheGrace);
  const [status = "", census = "", ...others] = page.section("Watch the rotation");
  expect(others).toEqual([]);
  expect(await shells.run(status)).toMatch(new RegExp(`^${rotation}: at step grace, `));
  expect(await shells.run(census)).toMatch(/^store .*\nsessions +key 2026-12 +primary +\d+ +█{20}\n$/);

  const [again = "", show = "", ...rest] = page.section("After the grace");
  expect(rest).toEqual([]);
  expect(await shells.afterGrace().runThroughKills(again, begun)).toBe(`${rotation}: done\n`);
  expect(begun).toEqual(steps);
  expect(await shells.run(show)).toMatch(/^Keyring .*\nkey .*\n2026-12 +primary .*\n$/);

  // The page says that the id of a removed key is not used again, so the rotation that is undone has an id of its own.
  await shells.runUntil("reencrypt", rotate.replace("2026-12", "2027-02"));
  const rollBack = page.line("Roll back to the old key");
  const undo = 'roll-back from key "2027-02" to "2026-12"';
  expect(await shells.runThroughKills(rollBack, [])).toBe(`${undo}: the next step is grace\n`);
  expect(await shells.afterGrace().run(rollBack)).toBe(`${undo}: done\n`);

  const [cost = "", revoke = "", ...more] = page.section("Revoke a compromised key");
  expect(more).toEqual([]);
  // Without an order the command only shows the cost, and says with its exit code that nothing was revoked.
  expect(await shells.run(cost, 2)).toMatch(/^\d+ records are under key "2026-12"\.\n[\s\S]*Nothing was changed/);
  expect(await shells.runThroughKills(revoke, [])).toBe('revocation from key "2026-12" to "2027-01": done\n');

  const { keyring } = JSON.parse(await shells.run("keyward keyring show --json"));
  expect(keyring.keys).toMatchObject([{ id: "2027-01" }]);
  await expectGoodHealth(shells, page.line("Check the requirements"));
  await fleet.expectNoFailure();
  const { sessions } = JSON.parse(await shells.run("keyward census --json")).stores;
  expect(sessions).toMatchObject({ recordsByKey: { "2027-01": sessions.records }, broken: 0, unsealed: 0 });
  expect(sessions.records).toBeGreaterThan(0);

  // The page says to make a new backup after the rotation. Another home directory is where the first backup is not.
  const later = await Shells.open({ ...page.config, ...config }, env);
  await later.run(page.line("Back the keyring up"));
  await loseKeyring();
  const [restore = "", count = "", ...none] = page.section("Restore a backup");
  expect(none).toEqual([]);
  expect(await later.run(restore)).toMatch(/^The keyring was restored, with 1 key\./);
  expect(await later.run(count)).not.toContain("NOT IN THE KEYRING");
  expect(await later.run("keyward reencrypt --dry-run")).toBe(
    `sessions: 0 of ${sessions.records} records would be re-encrypted, 0 unreadable\n`,
  );
  expect(page.left).toEqual([]);
}

const timeout = 3 * testTimeoutMs;

describe("docs/rotation.md", () => {
  it("contains only shell blocks that the drill runs", () => expect(new Runbook().unrun).toEqual([]));
});

describeWithRedis(
  redisServers,
  `four processes over Redis, whose operator follows docs/rotation.md (seed ${seed})`,
  () => {
    let redis: RedisNode;
    beforeEach(async () => {
      const started = await startRedis(redisServers);
      redis = started;
      return () => started.stop();
    });

    it("complete every call without an error if the keys are in a file", { timeout }, async () => {
      const path = join(await newFolder(), "production.keyring");
      await drill({
        config: { keys: `file:${path}`, stores: { sessions: redis.url } },
        env: {},
        source: `file:${path}`,
        address: redis.url,
        loseKeyring: () => rm(path),
      });
    });

    describeWithVault(vaultServers, "and whose keys are in a secret of OpenBao", () => {
      let vault: VaultServer;
      beforeEach(async () => {
        const started = await startVault(vaultServers);
        vault = started;
        await started.request("POST", "sys/mounts/secret", { type: "kv", options: { version: "2" } });
        return () => started.stop();
      });

      it("complete every call without an error", { timeout }, async () => {
        const source = "vault://secret/app/keyring";
        await drill({
          config: {},
          env: {
            KEYWARD_KEYS: source,
            KEYWARD_STORE_SESSIONS: redis.url,
            VAULT_ADDR: vault.address,
            VAULT_TOKEN: vault.rootToken,
          },
          // By default, a process loads the secret once a minute.
          source: `${source}?refreshMs=500`,
          address: redis.url,
          loseKeyring: async () => {
            await vault.request("DELETE", "secret/metadata/app/keyring");
          },
        });
      });
    });
  },
);
