import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { census, EncryptedStore, type KeyringChange } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { publish } from "../servers/kubernetes-mount.ts";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../servers/redis.ts";
import type { OperatorMessage } from "./guided-operator-process.ts";
import { openStore } from "./open-store.ts";
import { Fleet, startProcess } from "./replica-fleet.ts";
import { seed, testTimeoutMs } from "./settings.ts";

const operatorProgram = fileURLToPath(new URL("./guided-operator-process.ts", import.meta.url));
const options = { timeout: 2 * testTimeoutMs };
const size = 4;
const pauseMs = 5;
const mostRuns = 60;
// How long after the change each mount has it. The last one is the operator's.
const mountLagsMs = [4_000, 300, 200, 100, 0];
const restartPauseMs = 800;
const steps = ["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove", "done"];

const redisServers = await findRedisServers();

function newKey(): string {
  return randomBytes(32).toString("base64");
}

describeWithRedis(redisServers, "a guided rotation of four processes over Redis", () => {
  let redis: RedisNode;
  beforeAll(async () => {
    redis = await startRedis(redisServers);
  });
  afterAll(() => redis.stop());

  it(
    `no call fails in a guided rotation of keys in mounted directories while the operator process is killed at each step (seed ${seed})`,
    options,
    async () => {
      await redis.command("FLUSHALL");
      const folder = await mkdtemp(join(tmpdir(), "keyward-guided-"));
      onTestFinished(() => rm(folder, { recursive: true }));
      // Each process, like each pod, has a mount of its own. The last one is the operator's.
      const mounts = mountLagsMs.map((_, index) => join(folder, `mount-${index}`));
      for (const mount of mounts) await mkdir(mount);
      let files: Record<string, string> = { old: newKey(), primary: "old" };
      for (const mount of mounts) await publish(mount, files);
      // Each mount has each state after a time of its own, as kubelets update mounts.
      const updates = mounts.map(() => Promise.resolve());
      const publishAll = (state: Record<string, string>) => {
        for (const [index, mount] of mounts.entries()) {
          updates[index] = (updates[index] ?? Promise.resolve()).then(async () => {
            await sleep(mountLagsMs[index]);
            await publish(mount, state);
          });
        }
        return updates.at(-1);
      };
      const sources = mounts.map((mount) => `file:${mount}`);
      const fleet = await Fleet.start({ address: redis.url, source: sources, env: {}, size, pauseMs, seed });
      await rotate({
        start: () => startProcess(operatorProgram, [redis.url, sources.at(-1) ?? "", "new"], {}),
        change: async (change) => {
          files = changedFiles(files, change);
          await publishAll(files);
        },
      });
      await Promise.all(updates);
      expect(Object.keys(files).toSorted()).toEqual(["new", "primary"]);
      await fleet.expectNoFailure();
      await expectOnlyKey("new", sources[0] ?? "");
    },
  );

  it(
    `no call fails in a guided rotation of keys in environment variables while processes restart one by one and the operator process is killed at each step (seed ${seed})`,
    options,
    async () => {
      await redis.command("FLUSHALL");
      let env: Variables = { APP_KEY: newKey() };
      const fleet = await Fleet.start({ address: redis.url, source: "env:APP_KEY", env, size, pauseMs, seed });
      let rolledOut = Promise.resolve();
      await rotate({
        start: () => startProcess(operatorProgram, [redis.url, "env:APP_KEY", "new"], env),
        change: async (change) => {
          env = changedVariables(env, change);
          // The operator is started again while the other processes are being restarted.
          rolledOut = rolledOut.then(() => fleet.rollOut(() => env, restartPauseMs));
        },
      });
      await rolledOut;
      expect(env).toEqual({ APP_KEY: expect.stringMatching(/^new=/) });
      await fleet.expectNoFailure();
      await expectOnlyKey("new", "env:APP_KEY", env);
    },
  );

  /**
   * Runs the rotation, and plays the person who makes each change at the source of the keys. The operator process is
   * killed whenever a step begins, and whenever it has asked for a change. Then it is started again.
   */
  async function rotate({
    start,
    change,
  }: {
    readonly start: () => ReturnType<typeof startProcess>;
    readonly change: (change: KeyringChange) => Promise<void>;
  }): Promise<void> {
    const begun: string[] = [];
    const changed: string[] = [];
    for (let run = 0; begun.at(-1) !== "done"; run++) {
      const child = start();
      const ended = once(child, "exit");
      let needed: KeyringChange | undefined;
      child.on("message", (message: OperatorMessage) => {
        if (message.kind === "change") {
          needed = message.change;
          child.kill("SIGKILL");
        } else if (!begun.includes(message.step)) {
          begun.push(message.step);
          if (message.step !== "done") child.kill("SIGKILL");
        }
      });
      await ended;
      if (needed !== undefined) {
        changed.push(needed.kind);
        await change(needed);
      }
      if (run > mostRuns) throw new Error(`The rotation does not finish: ${begun.join(", ")}`);
    }
    expect(begun).toEqual(steps);
    expect(changed).toEqual(["add", "promote", "remove"]);
  }

  /** Expects that every record is under the key, and that a process with the last keys reads every record. */
  async function expectOnlyKey(
    keyId: string,
    source: string,
    env: Readonly<Record<string, string>> = {},
  ): Promise<void> {
    const keys = await keysFrom(source, { env });
    expect((await keys.load()).keys.map(({ id }) => id)).toEqual([keyId]);
    const inner = openStore(redis.url);
    onTestFinished(() => inner.disconnect());
    const store = new EncryptedStore(inner.namespaced("sessions"), { keys });
    const { keys: counts, records, broken, unsealed } = await census(store);
    expect({ keys: [...counts.keys()], broken, unsealed }).toEqual({ keys: [keyId], broken: 0, unsealed: 0 });
    let count = 0;
    for await (const _ of store.iterator()) count++;
    expect(count).toBe(records);
  }
});

/** Returns the files of a mounted directory after an operator has followed the instruction for a change. */
function changedFiles(files: Record<string, string>, change: KeyringChange): Record<string, string> {
  switch (change.kind) {
    case "add":
      return { ...files, [change.keyId]: newKey() };
    case "promote":
      return { ...files, primary: change.keyId };
    case "remove":
      return Object.fromEntries(Object.entries(files).filter(([name]) => name !== change.keyId));
    case "replace":
      throw new Error("A rotation replaces no key in one change");
  }
}

type Variables = { readonly APP_KEY: string; readonly APP_KEY_OTHERS?: string };

/** Returns the environment variables after an operator has followed the instruction for a change. */
function changedVariables({ APP_KEY, APP_KEY_OTHERS = "" }: Variables, change: KeyringChange): Variables {
  switch (change.kind) {
    case "add":
      return { APP_KEY, APP_KEY_OTHERS: `${change.keyId}=${newKey()}` };
    case "promote":
      return { APP_KEY: APP_KEY_OTHERS, APP_KEY_OTHERS: APP_KEY };
    case "remove":
      return { APP_KEY };
    case "replace":
      throw new Error("A rotation replaces no key in one change");
  }
}
