import { Keyring } from "@keyward/core";
import { type Initialization, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { HostileStore, haltedRead, slowStore } from "./hostile-store.ts";
import { AuditInMemory, keysIn } from "./service.ts";

const refused = { code: "TOKEN_REFUSED" };

function start() {
  const store = new MemoryStore();
  const keys = Keyring.generate("k1");
  const audit = new AuditInMemory();
  const open = (over: ConstructorParameters<typeof SecretsAdmin>[0]["store"] = store) => {
    const admin = new SecretsAdmin({ store: over, keys, audit });
    onTestFinished(() => admin.close());
    return admin;
  };
  return { store, open };
}

async function expectUsable(admin: SecretsAdmin, { operator, admin: first }: Initialization): Promise<void> {
  await admin.ready();
  expect((await admin.authenticate(operator.token)).role).toBe("operator");
  const caller = await admin.authenticate(first.token);
  await admin.createServer(caller, { slug: "github", url: "https://example.com" });
  expect((await admin.listTokens(admin.localOperator())).items).toHaveLength(1);
  expect((await admin.listWorkspaces(admin.localOperator())).items).toMatchObject([{ name: "main" }]);
  await expect(admin.initialize()).rejects.toMatchObject({ code: "ALREADY_INITIALIZED" });
}

/** Starts a service, and returns the record of the installation from the time of its initialization. */
async function startUsed(use: (admin: SecretsAdmin, first: Initialization) => Promise<unknown>) {
  const { store, open } = start();
  const admin = open();
  const hostile = new HostileStore({ store });
  let early: unknown;
  const first = await admin.initialize({
    deliver: async () => {
      early = await hostile.read("service");
    },
  });
  await use(admin, first);
  const remove = async (prefix: string) => {
    for (const key of await keysIn({ store }, prefix)) await hostile.remove(key);
  };
  return { store, open, early, remove, hostile };
}

describe("a service that was used", () => {
  const uses: Record<string, Parameters<typeof startUsed>[0]> = {
    "a server with a secret": async (admin, first) => {
      const caller = await admin.authenticate(first.admin.token);
      await admin.createServer(caller, { slug: "github", url: "https://example.com" });
      await admin.setSecret(caller, "github", { name: "ONE", value: "a-value-of-ONE" });
    },
    "a further token": async (admin, first) =>
      await admin.createToken(await admin.authenticate(first.admin.token), { owner: "ci", role: "member" }),
    "a further workspace": async (admin) =>
      await admin.createWorkspace(admin.localOperator(), { name: "pay", adminOwner: "ana" }),
    "nothing further": async () => {},
  };
  const attacks: Record<string, (service: Awaited<ReturnType<typeof startUsed>>) => Promise<void>> = {
    "its record was removed": ({ remove }) => remove("service"),
    "its record and the list of workspaces were removed": async ({ remove }) => {
      await remove("service");
      await remove("list/workspaces/");
    },
    "its first record was put back, and the list of workspaces was removed": async ({ remove, hostile, early }) => {
      await hostile.putBack("service", early);
      await remove("list/workspaces/");
    },
    "its first record was put back, and the lists of the workspaces were removed": async ({ store, ...service }) => {
      await service.hostile.putBack("service", service.early);
      for (const key of await keysIn({ store }, "list/")) {
        if (!key.startsWith("list/workspaces/")) await service.hostile.remove(key);
      }
    },
  };
  const all = Object.keys(attacks).flatMap((attack) => Object.keys(uses).map((use) => [attack, use] as const));
  // Such a service cannot be told from one whose initialization was not finished, and has nothing that could be lost.
  const told = all.filter(
    ([attack, use]) => use !== "nothing further" || !attack.endsWith("of the workspaces were removed"),
  );

  it.each(told)("is not initialized again if %s, and there is %s", async (attack, use) => {
    const service = await startUsed(uses[use] ?? (async () => {}));
    await attacks[attack]?.(service);
    const before = await keysIn(service, "");
    const admin = service.open();
    // The second call finds what the first one has left.
    for (const call of [() => admin.initialize(), () => admin.state(), () => admin.initialize()]) {
      await expect(call()).rejects.toMatchObject({
        code: "RECORD_MISSING",
        hint: expect.stringContaining("restore the store from a backup"),
      });
    }
    expect(await keysIn(service, "")).toEqual(before);
  });

  it("is not initialized in a store that cannot be searched for its records", async () => {
    const { store, open } = start();
    const blind = open(
      new Proxy(store, {
        get: (target, property) => {
          const member: unknown = Reflect.get(target, property, target);
          if (property === "scan") return undefined;
          return typeof member === "function" ? member.bind(target) : member;
        },
      }),
    );
    await expect(blind.initialize()).rejects.toMatchObject({ code: "STORE_NOT_SCANNABLE" });
    expect(await keysIn({ store }, "")).toEqual([]);
  });
});

describe("an initialization", () => {
  it("that could not deliver the first tokens is begun again, and the lost tokens are refused", async () => {
    const admin = start().open();
    let lost: Initialization | undefined;
    const failed = admin.initialize({
      deliver: async (first) => {
        lost = first;
        throw new Error("disk full");
      },
    });
    await expect(failed).rejects.toThrow("disk full");
    expect(await admin.state()).toBe("initializing");
    await expect(admin.ready()).rejects.toMatchObject({ code: "NOT_INITIALIZED" });
    for (const issued of [lost?.operator, lost?.admin]) {
      await expect(admin.authenticate(issued?.token ?? "")).rejects.toMatchObject(refused);
    }
    let delivered: Initialization | undefined;
    const first = await admin.initialize({
      deliver: async (tokens) => {
        delivered = tokens;
      },
    });
    expect(delivered).toEqual(first);
    await expectUsable(admin, first);
    for (const issued of [lost?.operator, lost?.admin]) {
      await expect(admin.authenticate(issued?.token ?? "")).rejects.toMatchObject(refused);
    }
  });

  it("that is halted at any moment, and is overtaken, changes nothing of what the other process has made", async () => {
    const moments = [slowStore, haltedRead].flatMap((halting) =>
      Array.from({ length: 40 }, (_, count) => ({ halting, count })),
    );
    const halts = moments.map(async ({ halting, count }) => {
      const { store, open } = start();
      const next = open();
      let left = count;
      let resume = () => {};
      const pause = () => new Promise<void>((resolve) => (resume = resolve));
      const slow = open(halting(store, () => (left-- === 0 ? pause() : Promise.resolve())));
      const lost: Initialization[] = [];
      let isOver = false;
      const ended = slow
        .initialize({ deliver: async (first) => void lost.push(first) })
        .catch((error: unknown) => error)
        .finally(() => {
          isOver = true;
        });
      await expect.poll(() => left < 0 || isOver, { timeout: 10_000 }).toBe(true);
      // It has fewer calls of this kind.
      if (isOver) return false;
      const first = await next.initialize();
      resume();
      expect(await ended).toMatchObject({ code: "ALREADY_INITIALIZED" });
      for (const { operator, admin } of lost) {
        for (const { token } of [operator, admin])
          await expect(next.authenticate(token)).rejects.toMatchObject(refused);
      }
      await expectUsable(next, first);
      return true;
    });
    const results = await Promise.all(halts);
    expect(results.filter((wasHalted) => wasHalted).length).toBeGreaterThan(20);
    expect(results[39]).toBe(false);
    expect(results[79]).toBe(false);
  });

  it("delivers no tokens after another process has taken over", async () => {
    const { store, open } = start();
    const next = open();
    let resume: (() => void) | undefined;
    let reads = 0;
    const slow = open(
      haltedRead(store, async () => {
        // The first reads are those of the claim.
        if (++reads === 6) await new Promise<void>((resolve) => (resume = resolve));
      }),
    );
    let isDelivered = false;
    const refusal = expect(
      slow.initialize({
        deliver: async () => {
          isDelivered = true;
        },
      }),
    ).rejects.toMatchObject({ message: "Another process has taken over the initialization of the service" });
    await expect.poll(() => resume, { timeout: 10_000 }).toBeDefined();
    const first = await next.initialize();
    resume?.();
    await refusal;
    expect(isDelivered).toBe(false);
    await expectUsable(next, first);
  });

  it("does not depend on whether the clocks of two machines agree", async () => {
    const { open } = start();
    const [one, other] = [open(), open()];
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    let deliveries = 0;
    const deliver = async () => {
      deliveries++;
      vi.setSystemTime(Date.now() + 3_600_000);
    };
    const ends = await Promise.allSettled([one.initialize({ deliver }), other.initialize({ deliver })]);
    expect(ends.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(deliveries).toBe(1);
  });

  it("that ended before any of its writes is begun again", async () => {
    let writes = 0;
    await start()
      .open(
        slowStore(new MemoryStore(), async () => {
          writes++;
        }),
      )
      .initialize();
    expect(writes).toBeGreaterThan(5);
    const ended = Array.from({ length: writes }, async (_, count) => {
      const { store, open } = start();
      let left = count;
      // The process ends: nothing after this write is made.
      const killed = open(slowStore(store, () => (left-- > 0 ? Promise.resolve() : new Promise(() => {}))));
      void killed.initialize();
      await expect.poll(() => left, { timeout: 10_000 }).toBeLessThan(0);
      const next = open();
      await expectUsable(next, await next.initialize());
    });
    await Promise.all(ended);
  });
});
