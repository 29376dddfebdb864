import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { copyOf, Fault, type FaultKind, FaultStore, faultKinds } from "./secrets-fault-store.ts";
import { contradictionsIn, leftoversIn, unmanagedIn } from "./secrets-leftovers.ts";
import { type Operation, operations } from "./secrets-operations.ts";
import { type Allowed, expectOneOf, mine, PreparedService, passAnHour } from "./secrets-prepared.ts";
import { codeOf, recordsOf } from "./secrets-view.ts";

const isReporting = process.env["KEYWARD_REPORT"] === "1";
let service: PreparedService;
let faults = 0;
let struckCalls = 0;

beforeAll(async () => {
  service = await PreparedService.make();
});

afterAll(() => {
  if (isReporting) console.log(`${faults} faults, in ${struckCalls} calls to the store`);
});

interface Struck {
  readonly store: MemoryStore;
  readonly fault: Fault;
  /** Resolves to "done" or to the code of the refusal. Never resolves if the process was halted. */
  readonly outcome: Promise<string>;
}

async function strike(operation: Operation, kind: FaultKind, at: number): Promise<Struck> {
  const store = await copyOf(service.records);
  const fault = new Fault(kind, at);
  const admin = service.open(new FaultStore(store, fault));
  const outcome = operation.run({ admin, as: service.callers }, service.world, mine).then(() => "done", codeOf);
  await Promise.race([outcome, fault.struck]);
  return { store, fault, outcome };
}

/** Checks the store after the process has ended, failed or continued. Then repeats the operation, and sweeps. */
async function checkEnded(operation: Operation, { store, fault, outcome }: Struck, allowed: Allowed): Promise<void> {
  const end = fault.kind === "halted" ? "" : await outcome;
  if (end !== "" && end !== "done") expect([...operation.refusals, "STORE_UNAVAILABLE"]).toContain(end);
  await service.expectEnded(operation, store, allowed, end === "done");
}

/** Makes the operation in other processes before the delayed write of the process arrives. Then checks the result. */
async function checkLate(operation: Operation, { store, fault, outcome }: Struck, allowed: Allowed): Promise<void> {
  const isDead = fault.kind === "late, of a dead process";
  const isFailed = fault.kind === "failed, and made late";
  const early = isFailed ? await outcome : "";
  if (early !== "" && early !== "done") expect([...operation.refusals, "STORE_UNAVAILABLE"]).toContain(early);
  expectOneOf(early === "done" ? [allowed.done] : allowed.ended, await service.viewOf(store));
  // Other processes take over the work of a halted process after an hour. A call that is only late arrives sooner.
  if (!isDead && !isFailed) passAnHour();
  const end = await service.makeByOthers(operation, store);
  await fault.release();
  const own = isDead || early === "STORE_UNAVAILABLE" ? "" : await outcome;
  if (own !== "" && own !== "done") expect(operation.refusals).toContain(own);
  const mineOrNone = end === "SERVICE_BUSY" ? allowed.ended : [];
  const refused = [...allowed.afterOthers, allowed.others];
  const acknowledged = [...allowed.both, ...allowed.afterOthers];
  const view = await service.viewOf(store);
  if (own === "done") expectOneOf([...acknowledged, ...mineOrNone], view);
  // A refused operation has changed nothing.
  else if (own !== "") expectOneOf([...refused, ...mineOrNone], view);
  else expectOneOf([...acknowledged, ...refused, ...mineOrNone], view);
  await service.expectWhole(store, operation);
  await service.expectNothingLeft(store, operation, view);
}

it("the secrets service can be recovered after its initialization was halted at any call to the store", async () => {
  const { keys } = service;
  onTestFinished(() => void vi.useRealTimers());
  for (let at = 1; ; at++) {
    vi.useRealTimers();
    const store = new MemoryStore();
    const fault = new Fault("halted", at);
    const outcome = service.open(new FaultStore(store, fault)).initialize();
    await Promise.race([outcome, fault.struck]);
    if (!fault.hasStruck) break;
    if (fault.isHarmless) continue;
    faults++;
    passAnHour();
    const admin = service.open(store);
    const local = admin.localOperator();
    const isBegun = (await admin.state()) === "initialized";
    if (!isBegun) await admin.initialize();
    const { items } = await admin.listWorkspaces(local);
    if (items.length === 0) await admin.createWorkspace(local, { name: "main", adminOwner: "recovered" });
    for (const workspace of [undefined, "main"]) {
      const { token } = await admin.recoverToken(local, { workspace, owner: "recovered" });
      await admin.authenticate(token);
    }
    // The entry of the workspace of an initialization that was not finished is kept as long as an audit. The first sweep
    // after a long pause removes nothing.
    for (const days of [2, 100, 100.5, 101]) {
      await admin.sweep({ now: Date.now() + days * 24 * 3_600_000, abandonedAfterMs: 0 });
    }
    await admin.close();
    const records = await recordsOf({ store, keys });
    expect([contradictionsIn(records), unmanagedIn(records), leftoversIn(records)]).toEqual([[], [], []]);
  }
});

it("a set of a secret rejects with SERVER_NOT_FOUND if its server was deleted and created again before the value was stored", async () => {
  const { callers, records } = service;
  const secret = { name: "ONE", value: "value for the former server" };
  // After the write that hands out the number of the value, the next write stores the value.
  for (let [at, writes] = [1, 0]; writes < 2; at++) {
    const store = await copyOf(records);
    const fault = new Fault("late", at);
    const admin = service.open(new FaultStore(store, fault));
    const outcome = admin.setSecret(callers.admin, "github", secret).then(() => "done", codeOf);
    await Promise.race([outcome, fault.struck]);
    if (fault.isHarmless || ++writes < 2) continue;
    const other = service.open(store);
    await other.deleteServer(callers.admin, "github");
    await other.createServer(callers.admin, { slug: "github", url: "https://another.example.com" });
    await fault.release();
    expect(await outcome).toBe("SERVER_NOT_FOUND");
    expect((await other.listSecrets(callers.admin, "github")).secrets).toEqual([]);
    await other.close();
  }
});

describe.each(operations)('the operation "$name"', (operation) => {
  it.each(faultKinds)(
    "loses no change, brings back nothing deleted and leaves no stray records if one of its calls to the store has this fault: %s",
    async (kind) => {
      onTestFinished(() => void vi.useRealTimers());
      const allowed = await service.allowedFor(operation);
      const failures: string[] = [];
      for (let at = 1; ; at++) {
        vi.useRealTimers();
        const struck = await strike(operation, kind, at);
        if (!struck.fault.hasStruck) {
          expect(await struck.outcome).toBe("done");
          expect(await service.viewOf(struck.store)).toBe(allowed.done);
          struckCalls += at - 1;
          break;
        }
        if (struck.fault.isHarmless) continue;
        faults++;
        try {
          await (struck.fault.waits ? checkLate : checkEnded)(operation, struck, allowed);
        } catch (error) {
          failures.push(`call ${at}: ${String(error instanceof Error ? error.message : error)}`);
        }
      }
      expect(failures).toEqual([]);
    },
  );
});
