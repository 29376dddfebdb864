import { Keyring } from "@keyward/core";
import {
  type AuditLog,
  type Call,
  type Caller,
  type Change,
  type ChangeOutcome,
  type RecordedCall,
  type Role,
  SecretsAdmin,
} from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import { MemoryStore } from "@keyward/store-memory";
import { onTestFinished } from "vitest";

/** A change that was recorded, and its outcome so far. */
export interface KeptChange extends Change {
  outcome: ChangeOutcome;
  revision?: number | undefined;
}

/** An audit in memory, for tests that are not about the audit. */
export class AuditInMemory implements AuditLog {
  readonly kept: KeptChange[] = [];
  readonly keptCalls: RecordedCall[] = [];

  async begin(change: Change) {
    const kept: KeptChange = { ...change, outcome: "unknown" };
    this.kept.push(kept);
    return {
      id: String(this.kept.length),
      async end(outcome: Exclude<ChangeOutcome, "unknown">, revision?: number) {
        kept.outcome = outcome;
        kept.revision = revision;
      },
    };
  }

  async changes() {
    return { items: [], next: undefined };
  }

  requireWritable() {}

  async recordCall(call: Call) {
    this.keptCalls.unshift({ ...call, outcome: "answered" });
  }

  async calls(workspace: string) {
    return { items: this.keptCalls.filter((call) => call.workspace === workspace), next: undefined };
  }

  async call(workspace: string, id: string) {
    return this.keptCalls.find((call) => call.workspace === workspace && call.callId === id);
  }

  async removeBefore(_workspace: string | undefined, _time: number) {
    return 0;
  }

  async ready() {}

  async close() {}
}

/** A running service in memory, with a caller of each role. */
export interface Service {
  readonly store: MemoryStore;
  readonly keys: Keyring;
  readonly audit: AuditInMemory;
  readonly admin: SecretsAdmin;
  readonly reader: SecretsReader;
  /** What did not fail a call. */
  readonly problems: unknown[];
  /** A caller of each role. Those of a workspace belong to the workspace `main`. */
  readonly as: Readonly<Record<Role, Caller>>;
  /** The token of each caller. */
  readonly tokens: Readonly<Record<Role, string>>;
  /** Opens the service once more, as another process does. */
  open(): SecretsAdmin;
}

/** Starts a service in memory with the workspace `main`. */
export async function startService(): Promise<Service> {
  const store = new MemoryStore();
  const keys = Keyring.generate("k1");
  const audit = new AuditInMemory();
  const problems: unknown[] = [];
  const onProblem = (problem: unknown) => problems.push(problem);
  const open = () => {
    const opened = new SecretsAdmin({ store, keys, audit, onProblem });
    onTestFinished(() => opened.close());
    return opened;
  };
  const admin = open();
  const reader = new SecretsReader({ store, keys, onProblem });
  onTestFinished(() => reader.close());
  const first = await admin.initialize();
  const adminCaller = await admin.authenticate(first.admin.token);
  const member = await admin.createToken(adminCaller, { owner: "member", role: "member" });
  const auditor = await admin.createToken(adminCaller, { owner: "auditor", role: "auditor" });
  const tokens = {
    member: member.token,
    auditor: auditor.token,
    admin: first.admin.token,
    operator: first.operator.token,
  };
  const as = {
    member: await admin.authenticate(tokens.member),
    auditor: await admin.authenticate(tokens.auditor),
    admin: adminCaller,
    operator: await admin.authenticate(tokens.operator),
  };
  return { store, keys, audit, admin, reader, problems, as, tokens, open };
}

/** Returns the keys of the records in the namespace of the service that begin with a prefix. */
export async function keysIn({ store }: Pick<Service, "store">, prefix: string): Promise<readonly string[]> {
  const keys: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: 1_000, ...(cursor === undefined ? {} : { cursor }) });
    keys.push(...page.entries.map(({ key }) => key).filter((key) => key.startsWith(prefix)));
    cursor = page.cursor;
  } while (cursor !== undefined);
  return keys.sort();
}

/** Returns the values that a call to a server would send, by the name of their secret. */
export async function valuesOf({ reader, tokens }: Service, slug: string): Promise<Record<string, string>> {
  const { secrets } = await reader.forCall(tokens.member, slug);
  return Object.fromEntries(secrets.map(({ name, value }) => [name, value.reveal()]));
}
