import { Keyring, type WrappableStore } from "@keyward/core";
import { SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { expect, vi } from "vitest";
import { guardMaterial } from "../store/secrets.ts";
import { copyOf, Fault, FaultStore } from "./secrets-fault-store.ts";
import { contradictionsIn, leftoversIn, unmanagedIn } from "./secrets-leftovers.ts";
import {
  type Operation,
  prepare,
  processOf,
  type ServiceProcess,
  type ServiceStep,
  type World,
} from "./secrets-operations.ts";
import { acceptingAudit, codeOf, recordsOf, viewOf } from "./secrets-view.ts";

const dayMs = 24 * 3_600_000;
/** The name of the process in which the fault occurs. */
export const mine = "mine";
const others = "others";

/** The views that the checks of an operation allow. */
export interface Allowed {
  readonly done: string;
  /** The views after the process has ended at any call. Empty if every state is allowed. */
  readonly ended: readonly string[];
  readonly repeated: readonly string[];
  /** The view after only other processes have made the operation. */
  readonly others: string;
  /** The views after this and another process have made the operation at the same time, and this process was not the last. */
  readonly both: readonly string[];
  /** The views after another process and then this process have made the operation, unless this process was refused. */
  readonly afterOthers: readonly string[];
}

/** A service in memory, which each case of a test copies, and the checks of the service after the case. */
export class PreparedService {
  readonly keys: Keyring;
  readonly records: MemoryStore;
  readonly world: World;
  readonly callers: ServiceProcess["as"];
  readonly #allowed = new Map<Operation, Promise<Allowed>>();

  private constructor(keys: Keyring, records: MemoryStore, world: World, callers: ServiceProcess["as"]) {
    this.keys = keys;
    this.records = records;
    this.world = world;
    this.callers = callers;
  }

  /** Fills a service, and leaves the unfinished work of killed processes in it. */
  static async make(): Promise<PreparedService> {
    const keys = guardMaterial(Keyring.generate("steps"));
    const records = new MemoryStore();
    const admin = new SecretsAdmin({ store: records, keys, audit: acceptingAudit });
    const world = await prepare(admin);
    const service = new PreparedService(keys, records, world, (await processOf(admin, world)).as);
    await service.#leaveRemains(admin);
    await admin.close();
    return service;
  }

  open(store: WrappableStore): SecretsAdmin {
    return new SecretsAdmin({ store, keys: this.keys, audit: acceptingAudit });
  }

  /** Returns the view of a process that opens the service in a store now. */
  async viewOf(store: WrappableStore): Promise<string> {
    return await viewOf({ store, keys: this.keys }, this.world);
  }

  /** Makes a step in a separate process without faults. The step may be refused with a code of the operation. */
  async makeStep(operation: Operation, step: ServiceStep, store: WrappableStore, who: string): Promise<string> {
    const admin = this.open(store);
    const end = await step({ admin, as: this.callers }, this.world, who).then(() => "done", codeOf);
    await admin.close();
    if (end !== "done") expect(operation.refusals).toContain(end);
    return end;
  }

  /** Makes the operation and a sweep in other processes while a process is halted. Returns "done" or the code of the refusal. */
  async makeByOthers(operation: Operation, store: WrappableStore): Promise<string> {
    const end = await this.makeStep(operation, operation.others ?? operation.run, store, others);
    if (operation.meanwhile !== undefined) await this.makeStep(operation, operation.meanwhile, store, others);
    const sweeper = this.open(store);
    await sweeper.sweep();
    await sweeper.close();
    return end;
  }

  /** Expects that a process has left an allowed state, that the operation can be repeated, and that sweeps remove the rest. */
  async expectEnded(operation: Operation, store: WrappableStore, allowed: Allowed, isDone: boolean): Promise<void> {
    expectOneOf(isDone ? [allowed.done] : allowed.ended, await this.viewOf(store));
    await this.expectWhole(store, operation);
    passAnHour();
    await this.makeStep(operation, operation.run, store, mine);
    const view = await this.viewOf(store);
    expectOneOf(allowed.repeated, view);
    await this.expectNothingLeft(store, operation, view);
  }

  async expectWhole(store: WrappableStore, operation: Operation): Promise<void> {
    const records = await recordsOf({ store, keys: this.keys });
    expect(contradictionsIn(records)).toEqual([]);
    if (operation.isGradual !== true) expect(unmanagedIn(records)).toEqual([]);
  }

  /** Expects that sweeps remove all unused records, and that processes see the same view as before. */
  async expectNothingLeft(store: WrappableStore, operation: Operation, before: string): Promise<void> {
    for (const days of [2, 4]) await this.#sweepAfter(store, days);
    expect(await this.viewOf(store)).toBe(before);
    await this.expectWhole(store, operation);
    vi.useRealTimers();
    // The entry of a deleted workspace is kept as long as its audit. Tokens that have ended are kept for 30 days.
    // The first sweep after a long pause removes nothing.
    for (const days of [200, 200.5, 201]) await this.#sweepAfter(store, days);
    expect(leftoversIn(await recordsOf({ store, keys: this.keys }))).toEqual([]);
  }

  /** Returns the views that the checks of an operation allow. They are found once for each operation. */
  allowedFor(operation: Operation): Promise<Allowed> {
    const found = this.#allowed.get(operation) ?? this.#findAllowed(operation);
    this.#allowed.set(operation, found);
    return found;
  }

  async #findAllowed(operation: Operation): Promise<Allowed> {
    const { run, meanwhile, between = [], atOnce = [], isGradual } = operation;
    const me: readonly [ServiceStep, string] = [run, mine];
    const they: readonly [ServiceStep, string] = [operation.others ?? run, others];
    const also: readonly (readonly [ServiceStep, string])[] = meanwhile === undefined ? [] : [[meanwhile, others]];
    const after = (...steps: readonly (readonly [ServiceStep, string])[]) => this.#viewAfter(operation, steps);
    const half = await Promise.all(between.map((step) => after([step, mine])));
    const halfAndMine = await Promise.all(between.map((step) => after([step, mine], me)));
    const done = await after(me);
    return {
      done,
      ended: isGradual === true ? [] : [await after(), done, ...half],
      repeated: [done, await after(me, me), ...halfAndMine],
      others: await after(they, ...also),
      afterOthers: [await after(they, me, ...also), await after(they, ...also, me)],
      both: [await after(me, they, ...also), ...(await Promise.all(atOnce.map((step) => after([step, mine], they))))],
    };
  }

  async #sweepAfter(store: WrappableStore, days: number): Promise<void> {
    const admin = this.open(store);
    await admin.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    await admin.close();
  }

  /** Returns the view after steps that processes have completed. */
  async #viewAfter(operation: Operation, steps: readonly (readonly [ServiceStep, string])[]): Promise<string> {
    const store = await copyOf(this.records);
    for (const [step, who] of steps) await this.makeStep(operation, step, store, who);
    return await this.viewOf(store);
  }

  /** Leaves a half-deleted server, a half-deleted workspace, a value without a secret, and a list entry without a server. */
  async #leaveRemains(admin: SecretsAdmin): Promise<void> {
    const { callers, records } = this;
    await admin.createServer(callers.admin, { slug: "half", url: "https://mcp.example.com" });
    await admin.setSecret(callers.admin, "half", { name: "HALF", value: "value of half" });
    await admin.createWorkspace(callers.operator, { name: "half", adminOwner: "half" });
    const half: readonly [number, (process: SecretsAdmin) => Promise<unknown>][] = [
      [4, (process) => process.deleteServer(callers.admin, "half")],
      [5, (process) => process.deleteWorkspace(callers.operator, "half")],
      [6, (process) => process.setSecret(callers.admin, "jira", { name: "LOST", value: "value of LOST" })],
      [5, (process) => process.createServer(callers.admin, { slug: "never", url: "https://mcp.example.com" })],
    ];
    for (const [at, run] of half) {
      const fault = new Fault("halted", at);
      await Promise.race([run(this.open(new FaultStore(records, fault))), fault.struck]);
      if (!fault.hasStruck) throw new Error("The process has ended before it was halted");
    }
  }
}

/** Moves the clock of this process by an hour, until the end of the test. */
export function passAnHour(): void {
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 3_600_000 });
}

export function expectOneOf(allowed: readonly string[], view: string): void {
  if (allowed.length > 0 && !allowed.includes(view)) expect(view).toBe(allowed[0]);
}
