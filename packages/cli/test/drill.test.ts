import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, it, onTestFinished } from "vitest";
import { Fleet } from "../../../test/faults/replica-fleet.ts";
import { seed, testTimeoutMs } from "../../../test/faults/settings.ts";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { keyward, startKeyward } from "./keyward-process.ts";

const servers = await findRedisServers();
const steps = ["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"];

/** Commands about one keyring file and one Redis, each of which runs in a folder of its own. */
class Operator {
  readonly #env: Readonly<Record<string, string>>;

  constructor(env: Readonly<Record<string, string>>) {
    this.#env = env;
  }

  /** Runs a command to its end, and expects that it succeeds. Returns what it prints. */
  async run(...commandLine: readonly string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await keyward(await newFolder(), this.#env, ...commandLine);
    expect({ commandLine, exitCode, stderr: exitCode === 0 ? "" : stderr }).toEqual({
      commandLine,
      exitCode: 0,
      stderr: "",
    });
    return stdout;
  }

  /**
   * Runs a command, and kills it when it prints that it begins a step that is not in `begun`. Returns whether the command
   * ended before it was killed.
   */
  async runUntilNextStep(begun: string[], ...commandLine: readonly string[]): Promise<boolean> {
    const child = startKeyward(await newFolder(), this.#env, ...commandLine);
    const ended = once(child, "exit");
    onTestFinished(() => void child.kill("SIGKILL"));
    const printed: string[] = [];
    for await (const line of createInterface(child.stderr)) {
      printed.push(line);
      if (!steps.includes(line) || begun.includes(line)) continue;
      begun.push(line);
      child.kill("SIGKILL");
    }
    const [exitCode, signal] = await ended;
    if (signal === "SIGKILL") return false;
    expect({ exitCode, printed }).toEqual({ exitCode: 0, printed: expect.any(Array) });
    return true;
  }
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-drill-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

describeWithRedis(servers, "four processes over Redis, whose keys an operator changes with keyward alone", () => {
  it(`fail no call while the operator is killed at each step, rolls back and revokes (seed ${seed})`, {
    timeout: 2 * testTimeoutMs,
  }, async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const source = `file:${join(await newFolder(), "production.keyring")}`;
    const operator = new Operator({ KEYWARD_KEYS: source, KEYWARD_STORE_SESSIONS: redis.url });
    await operator.run("keyring", "create", "--id", "first", "--stores", "sessions");
    const fleet = await Fleet.start({ address: redis.url, source, env: {}, size: 4, pauseMs: 5, seed });

    const rotate = ["rotate", "--new-key", "second", "--grace", "0s"];
    const begun: string[] = [];
    let isDone = false;
    while (!isDone) isDone = await operator.runUntilNextStep(begun, ...rotate);
    expect(begun).toEqual(steps);
    expect(await operator.run("status")).toMatch(/^rotation from key "first" to "second": done, /);

    await operator.run("rotate", "--new-key", "third", "--until", "reencrypt");
    expect(await operator.run("rollback", "--grace", "0s")).toBe('roll-back from key "third" to "second": done\n');
    const revoke = ["revoke", "second", "--order", "reencrypt-first", "--new-key", "fourth", "--grace", "0s"];
    expect(await operator.run(...revoke)).toBe('revocation from key "second" to "fourth": done\n');

    expect(JSON.parse(await operator.run("keyring", "show", "--json")).keyring.keys).toHaveLength(1);
    const { sessions } = JSON.parse(await operator.run("census", "--json")).stores;
    expect(sessions).toMatchObject({ recordsByKey: { fourth: sessions.records }, broken: 0, unsealed: 0 });
    expect(await operator.run("doctor")).not.toMatch(/PROBLEM|warning/);
    await fleet.expectNoFailure();
  });
});
