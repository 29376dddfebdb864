import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Keyring } from "@keyward/core";
import { type AuditLog, type Caller, openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import type { TokenEntry } from "../../packages/secrets/src/access/tokens.ts";
import { newId } from "../../packages/secrets/src/records/ids.ts";
import { listKey, serverKey, tokenKey, valueKey } from "../../packages/secrets/src/records/record-keys.ts";
import type { ServerRecord } from "../../packages/secrets/src/records/server-record.ts";
import type { TokenRecord } from "../../packages/secrets/src/records/token-record.ts";
import type { ValueRecord } from "../../packages/secrets/src/records/value-record.ts";
import type { ServerEntry } from "../../packages/secrets/src/servers/servers.ts";
import { ServiceStore } from "../../packages/secrets/src/store/service-store.ts";
import type { Stores } from "./stores.ts";

const pageSize = 500;

/** A secrets service with many servers and tokens in a workspace. */
export interface FilledService {
  readonly admin: SecretsAdmin;
  readonly reader: SecretsReader;
  readonly store: ReturnType<Stores["make"]>;
  readonly keys: Keyring;
  readonly audit: AuditLog;
  /** The caller who manages the workspace. */
  readonly caller: Caller;
  /** The token of a member of the workspace. */
  readonly member: string;
  /** The slug of a server, for a number below the number of servers. */
  slugOf(number: number): string;
  close(): Promise<void>;
}

/**
 * Starts a secrets service with servers, each with one secret of 40 bytes, and with tokens. The records are written in
 * batches, as the service itself would write them one by one.
 */
export async function fillService(
  stores: Stores,
  {
    servers,
    tokens,
    url = "https://mcp.example.com/mcp",
  }: { readonly servers: number; readonly tokens: number; readonly url?: string },
): Promise<FilledService> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-bench-service-"));
  const store = stores.make();
  const keys = Keyring.generate("bench");
  const audit: AuditLog = openAuditLog({ path: join(folder, "audit.db"), keys });
  const admin = new SecretsAdmin({ store, keys, audit });
  const reader = new SecretsReader({ store, keys });
  const first = await admin.initialize();
  const caller = await admin.authenticate(first.admin.token);
  const workspace = first.workspace.id;
  const records = new ServiceStore({ store, keys });
  const slugOf = (number: number) => `server-${number}`;

  await fillPages(records, listKey({ workspace, of: "servers" }), servers, 0, (number, page) => {
    const [id, slug, created] = [newId(), slugOf(number), Date.now()];
    const value: ValueRecord = { v: 1, name: "TOKEN", origin: new URL(url).origin, value: "v".repeat(40) };
    const secret = {
      name: "TOKEN",
      rule: { kind: "bearer" },
      value: 1,
      revision: 1,
      origin: value.origin,
      setAt: created,
      setBy: "bench",
      weak: false,
      pair: false,
      redacted: true,
    } as const;
    const server: ServerRecord = {
      ...{
        v: 1,
        id,
        page,
        slug,
        url,
        kind: "mcp",
        forwardHeaders: [],
        relayHeaders: [],
        disabled: false,
        deleting: false,
        revision: 1,
        created,
      },
      ...{ createdBy: "bench", values: 1, secrets: [secret], pending: [], garbage: [] },
    };
    const entry: ServerEntry = { slug, id, at: created };
    const written = [
      [serverKey(workspace, slug), server],
      [valueKey(workspace, id, 1), value],
    ] as const;
    return { entry, written };
  });
  // The list of tokens begins with the admin's token, on page 0.
  await fillPages(records, listKey({ workspace, of: "tokens" }), tokens, 1, (_, page) => {
    const [id, created] = [newId(), Date.now()];
    const token: TokenRecord = {
      ...{ v: 1, id, page, revision: 0, hash: "A".repeat(43), owner: "bench", role: "member", created },
      createdBy: "bench",
    };
    const entry: TokenEntry = { id, owner: "bench", at: created };
    return { entry, written: [[tokenKey(workspace, id), token]] as const };
  });
  await records.disconnect();
  const { token: member } = await admin.createToken(caller, { owner: "member", role: "member" });
  return {
    ...{ admin, reader, store, keys, audit, caller, member, slugOf },
    async close() {
      await reader.close();
      await admin.close();
      await audit.close();
      await store.disconnect();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Writes pages of a list, with the records that each entry names, from a page on. */
async function fillPages(
  records: ServiceStore,
  prefix: string,
  count: number,
  firstPage: number,
  make: (
    number: number,
    page: number,
  ) => { readonly entry: object; readonly written: readonly (readonly [key: string, value: object])[] },
): Promise<void> {
  if (count === 0) return;
  let last = firstPage;
  for (let first = 0; first < count; first += pageSize) {
    last = firstPage + first / pageSize;
    const made = Array.from({ length: Math.min(pageSize, count - first) }, (_, index) => make(first + index, last));
    const page = { v: 1, next: made.length, entries: made.map(({ entry }, n) => ({ n, entry })) };
    const written = [...made.flatMap((one) => one.written), [`${prefix}/${last}`, page] as const];
    await records.encrypted.setMany(written.map(([key, value]) => ({ key, value: JSON.stringify(value) })));
  }
  await records.encrypted.set(`${prefix}/head`, JSON.stringify({ v: 1, last }));
}
