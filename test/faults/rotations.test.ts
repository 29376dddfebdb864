import { once } from "node:events";
import { fileURLToPath } from "node:url";
import {
  census,
  EncryptedStore,
  type KeyProvider,
  Keyring,
  KeywardError,
  type RotateKeyOptions,
  type RotationStep,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import type { RedisStore } from "@keyward/store-redis";
import type { SqliteStore } from "@keyward/store-sqlite";
import { afterAll, beforeAll, expect, it, onTestFinished, vi } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../servers/moto.ts";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../servers/openbao.ts";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../servers/redis.ts";
import { openStore } from "./open-store.ts";
import { Fleet, startProcess } from "./replica-fleet.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";

const operatorProgram = fileURLToPath(new URL("./operator-process.ts", import.meta.url));
const options = { timeout: 2 * testTimeoutMs };
const processes = soak ? 10 : 5;
const rotations = soak ? 20 : 4;
// Without a pause, the processes leave two cores no time for other work.
const pauseMs = soak ? 0 : 5;
const stepsWithoutService = soak
  ? (["distribute", "promote", "drain", "reencrypt", "disable", "remove"] as const)
  : (["drain", "remove"] as const);

const redisServers = await findRedisServers();
const vaultServers = await findVaultServers();
const motoServers = await findMoto();

/** A key service of these suites. */
interface KeyService {
  /** Returns the environment variables with which a process reaches the key service. */
  env(): Readonly<Record<string, string>>;
  /** Creates a keyring and returns its source, for `keysFrom`. */
  newSource(): string;
  /** Stops the key service from answering. */
  stop(): Promise<void>;
  /** Lets the key service answer again. */
  start(): Promise<void>;
}

let ringCount = 0;

describeWithRedis(redisServers, `${processes} processes over Redis, whose keys rotate`, () => {
  let redis: RedisNode;
  beforeAll(async () => {
    redis = await startRedis(redisServers);
  });
  afterAll(() => redis.stop());

  describeWithVault(vaultServers, "through Vault", () => {
    let server: VaultServer;
    beforeAll(async () => {
      server = await startVault(vaultServers);
      await server.request("POST", "sys/mounts/secret", { type: "kv", options: { version: "2" } });
    });
    afterAll(() => server.stop());

    describeService({
      env: () => ({ VAULT_ADDR: server.address, VAULT_TOKEN: server.rootToken }),
      newSource: () => `vault://secret/ring-${++ringCount}`,
      stop: () => server.seal(),
      start: () => server.unseal(),
    });
  });

  describeWithMoto(motoServers, "through Secrets Manager", () => {
    let server: MotoServer;
    beforeAll(async () => {
      server = await startMoto(motoServers);
    });
    afterAll(() => server.stop());

    describeService({
      env: () => ({ AWS_ENDPOINT_URL: server.endpoint, AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" }),
      newSource: () => `aws-sm://eu-central-1/ring-${++ringCount}?timeoutMs=5000`,
      stop: async () => server.pause(),
      start: async () => server.resume(),
    });
  });

  function describeService(service: KeyService): void {
    beforeAll(() => {
      for (const [name, value] of Object.entries(service.env())) vi.stubEnv(name, value);
    });
    afterAll(() => vi.unstubAllEnvs());

    it(`no call of ${processes} processes fails in ${rotations} rotations (seed ${seed})`, options, async () => {
      const { fleet, operator } = await start(service);
      for (let rotation = 1; rotation <= rotations; rotation++) await operator.rotate();
      await fleet.expectNoFailure();
      await operator.expectOneKey();
    });

    it(
      `no call of ${processes} processes fails while one of them is paused during a rotation (seed ${seed})`,
      options,
      async () => {
        const { fleet, operator } = await start(service);
        const former = (await operator.keys.load()).primary;
        await fleet.haltOne();
        await operator.rotate();
        fleet.resumeOne();
        await operator.rotate();
        await fleet.expectNoFailure();
        await operator.expectOneKey();
        expect((await operator.keys.load()).keys.map(({ id }) => id)).not.toContain(former);
      },
    );

    it(
      `no call of ${processes} processes fails while the key service is unavailable during a rotation (seed ${seed})`,
      options,
      async () => {
        const { fleet, operator } = await start(service);
        for (const step of stepsWithoutService) {
          await operator.rotate({ until: stepBefore(step) });
          await service.stop();
          await expect(operator.rotateOnce()).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
          await service.start();
          await operator.rotate();
        }
        await fleet.expectNoFailure();
        await operator.expectOneKey();
      },
    );

    it(
      `no call of ${processes} processes fails while the operator process is killed at each step of a rotation (seed ${seed})`,
      options,
      async () => {
        const { fleet, operator, source } = await start(service);
        const begun: string[] = [];
        for (let run = 0; begun.at(-1) !== "done"; run++) {
          const child = startProcess(operatorProgram, [redis.url, source, "next"], service.env());
          const ended = once(child, "exit");
          child.on("message", (step) => {
            if (begun.includes(String(step))) return;
            begun.push(String(step));
            if (step !== "done") child.kill("SIGKILL");
          });
          await ended;
          if (run > 20) throw new Error(`The rotation does not finish: ${begun.join(", ")}`);
        }
        expect(begun.length).toBeGreaterThanOrEqual(8);
        const ring = await operator.keys.load();
        expect(ring.keys.map(({ id }) => id)).toEqual(["next"]);
        await fleet.expectNoFailure();
        await operator.expectOneKey();
      },
    );

    it("a process asks the key service only once if 1,000 concurrent reads find records under a key that its keyring lacks", async () => {
      const source = service.newSource();
      const operators = await keysFrom(source);
      const old = Keyring.generate("old");
      await operators.create?.(old);
      let loads = 0;
      const provider = await keysFrom(source);
      const counted: KeyProvider = {
        load: async (given) => {
          loads++;
          return await provider.load(given);
        },
      };
      const inner = openStore(redis.url);
      onTestFinished(() => inner.disconnect());
      const namespace = `storm-${ringCount}`;
      const reader = new EncryptedStore(inner.namespaced(namespace), { keys: counted, reencrypt: "off" });
      await reader.get("nothing");
      const next = old.add({ id: "new" }).promote("new");
      await operators.save?.(next, old);
      const writer = new EncryptedStore(inner.namespaced(namespace), { keys: next });
      await writer.overwriteCheckRecord();
      const names = Array.from({ length: 1_000 }, (_, index) => `session:${index}`);
      await writer.setMany(names.map((key) => ({ key, value: key })));
      loads = 0;
      expect(await Promise.all(names.map((name) => reader.get(name)))).toEqual(names);
      expect(loads).toBe(1);
      await writer.clear();
    });
  }

  async function start(service: KeyService) {
    const source = service.newSource();
    const keys = await keysFrom(source);
    await keys.create?.(Keyring.generate("first"));
    // Each test has its own keyring and store.
    const inner = openStore(redis.url);
    onTestFinished(() => inner.disconnect());
    await clearAll();
    const operator = new Operator(keys, inner);
    const fleet = await Fleet.start({ address: redis.url, source, env: service.env(), size: processes, pauseMs, seed });
    return { fleet, operator, source };
  }

  async function clearAll(): Promise<void> {
    await redis.command("FLUSHALL");
  }
});

/** Returns the step that comes before a step. */
function stepBefore(step: (typeof stepsWithoutService)[number]): RotationStep {
  switch (step) {
    case "distribute":
      return "add";
    case "promote":
      return "distribute";
    case "drain":
      return "promote";
    case "reencrypt":
      return "drain";
    case "disable":
      return "reencrypt";
    case "remove":
      return "grace";
  }
}

/** The operator in this process, who rotates the keys. */
class Operator {
  readonly keys: KeyProvider;
  readonly #store: EncryptedStore;

  constructor(keys: KeyProvider, inner: RedisStore | SqliteStore) {
    this.keys = keys;
    this.#store = new EncryptedStore(inner.namespaced("sessions"), { keys });
  }

  /** Rotates the key. Repeats the call while the key service does not answer in time, as on a busy machine. */
  async rotate(settings: Partial<RotateKeyOptions> = {}): Promise<void> {
    for (;;) {
      try {
        await this.rotateOnce(settings);
        return;
      } catch (error) {
        if (!(error instanceof KeywardError) || error.code !== "PROVIDER_UNAVAILABLE") throw error;
      }
    }
  }

  async rotateOnce(settings: Partial<RotateKeyOptions> = {}): Promise<void> {
    await rotateKey(this.keys, { stores: { sessions: this.#store }, graceMs: soak ? 500 : 50, ...settings });
  }

  /** Expects that the last rotation is done, that the keyring has one key, and that every record is decrypted with it. */
  async expectOneKey(): Promise<void> {
    expect(await rotationStatus(this.keys, { stores: { sessions: this.#store } })).toMatchObject({ step: "done" });
    const ring = await this.keys.load();
    expect(ring.keys.map(({ id }) => id)).toEqual([ring.primary]);
    const { keys, records, broken, unsealed } = await census(this.#store);
    expect({ keys: [...keys.keys()], broken, unsealed }).toEqual({ keys: [ring.primary], broken: 0, unsealed: 0 });
    let count = 0;
    for await (const _ of this.#store.iterator()) count++;
    expect(count).toBe(records);
  }
}
