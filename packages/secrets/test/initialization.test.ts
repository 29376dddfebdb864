import { Keyring } from "@keyward/core";
import { type Initialization, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { slowStore } from "./hostile-store.ts";
import { AuditInMemory } from "./service.ts";

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

  it("that was taken over by another process leaves no workspace and no valid token", async () => {
    const { store, open } = start();
    let halted: (() => void) | undefined;
    let lost: Initialization | undefined;
    const next = open();
    const slow = open(
      slowStore(store, async (keys) => {
        if (!keys.includes("list/workspaces/0") || halted !== undefined) return;
        await new Promise<void>((resolve) => (halted = resolve));
      }),
    );
    const deliver = async (first: Initialization) => {
      lost = first;
    };
    const refusal = expect(slow.initialize({ workspace: "slow", deliver })).rejects.toMatchObject({
      code: "ALREADY_INITIALIZED",
    });
    await expect.poll(() => halted, { timeout: 10_000 }).toBeDefined();
    const first = await next.initialize();
    halted?.();
    await refusal;
    for (const issued of [lost?.operator, lost?.admin]) {
      if (issued !== undefined) await expect(next.authenticate(issued.token)).rejects.toMatchObject(refused);
    }
    await expectUsable(next, first);
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
