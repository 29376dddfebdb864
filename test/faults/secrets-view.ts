import { EncryptedStore, isNamespaced, type Keyring, KeywardError, type WrappableStore } from "@keyward/core";
import {
  type AuditLog,
  type Caller,
  type Page,
  type PageRequest,
  SecretsAdmin,
  SecretsError,
  scopeOfServiceRecord,
  serviceNamespace,
} from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import type { World } from "./secrets-operations.ts";

/** The store of a service, and the keys of its records. */
export interface ServicePlace {
  readonly store: WrappableStore;
  readonly keys: Keyring;
}

/** An audit that accepts every change, for tests of the store. */
export const acceptingAudit: AuditLog = {
  begin: async () => ({ id: "1", end: async () => undefined }),
  changes: async () => ({ items: [], next: undefined }),
  requireWritable: () => undefined,
  recordCall: async () => undefined,
  calls: async () => ({ items: [], next: undefined }),
  call: async () => undefined,
  removeBefore: async () => 0,
  ready: async () => undefined,
  close: async () => undefined,
};

/** Returns the code of an error of the service or of the store. Throws any other error. */
export function codeOf(error: unknown): string {
  if (error instanceof SecretsError || error instanceof KeywardError) return error.code;
  throw error;
}

/**
 * Returns the view of a process that opens the service now, as text: the listed workspaces, servers and tokens, the
 * metadata of secrets, the tokens that are accepted, and the values that calls would send. Leaves out times, ids and revisions.
 */
export async function viewOf({ store, keys }: ServicePlace, world: World): Promise<string> {
  const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
  const reader = new SecretsReader({ store, keys });
  try {
    const local = admin.localOperator();
    const workspaces = await allOf((page) => admin.listWorkspaces(local, page));
    const view = {
      workspaces: workspaces.flatMap(({ name, deleting }) => (deleting ? [] : [name])).sort(),
      operators: await tokensOf(admin, local),
      accepted: {
        admin: await outcomeOf(async () => (await admin.authenticate(world.tokens.admin)).role),
        second: await outcomeOf(async () => (await admin.authenticate(world.tokens.second)).role),
        operator: await outcomeOf(async () => (await admin.authenticate(world.tokens.operator)).role),
      },
      main: await outcomeOf(async () => await contentOf(admin, await admin.authenticate(world.tokens.admin))),
      calls: {
        member: await callsWith(reader, world.tokens.member, ["github", "jira", "fresh", "half"]),
        other: await callsWith(reader, world.tokens.other, ["github"]),
        spare: await callsWith(reader, world.tokens.spare, ["github"]),
      },
    };
    return JSON.stringify(view, undefined, 1);
  } finally {
    await reader.close();
    await admin.close();
  }
}

async function contentOf(admin: SecretsAdmin, caller: Caller) {
  const servers = (await allOf((page) => admin.listServers(caller, page))).filter(({ deleting }) => !deleting);
  const known = [];
  for (const { slug, url } of servers) {
    const { secrets } = await admin.listSecrets(caller, slug);
    known.push({ slug, url, secrets: secrets.map(({ name, rule, unusable }) => ({ name, rule, unusable })) });
  }
  return {
    servers: known.sort((one, other) => (one.slug < other.slug ? -1 : 1)),
    tokens: await tokensOf(admin, caller),
  };
}

async function tokensOf(admin: SecretsAdmin, caller: Caller): Promise<readonly string[]> {
  const tokens = await allOf((page) => admin.listTokens(caller, page));
  return tokens
    .map(({ owner, role, revoked, expires }) => {
      const isEnded = revoked !== undefined || (expires !== undefined && expires <= Date.now());
      return `${role} ${owner}${isEnded ? ", ended" : ""}`;
    })
    .sort();
}

async function callsWith(reader: SecretsReader, token: string, slugs: readonly string[]) {
  const calls: [string, unknown][] = [];
  for (const slug of slugs) {
    calls.push([
      slug,
      await outcomeOf(async () => {
        const { secrets } = await reader.forCall(token, slug);
        return secrets.map(({ name, value }) => `${name}: ${value.reveal()}`).sort();
      }),
    ]);
  }
  return Object.fromEntries(calls);
}

async function outcomeOf<Result>(call: () => Promise<Result>): Promise<Result | string> {
  try {
    return await call();
  } catch (error) {
    return codeOf(error);
  }
}

async function allOf<Item>(read: (page: PageRequest) => Promise<Page<Item>>): Promise<readonly Item[]> {
  const items: Item[] = [];
  let cursor: string | undefined;
  do {
    const page = await read({ cursor, limit: 100 });
    items.push(...page.items);
    cursor = page.next;
  } while (cursor !== undefined);
  return items;
}

/** Returns every record of the service, decrypted and parsed, by its key. */
export async function recordsOf({ store, keys }: ServicePlace): Promise<ReadonlyMap<string, unknown>> {
  const view = isNamespaced(store) ? store.namespaced(serviceNamespace) : store;
  const encrypted = new EncryptedStore(view, { keys, scope: scopeOfServiceRecord });
  encrypted.namespace = serviceNamespace;
  const records = new Map<string, unknown>();
  for await (const [key, value] of encrypted.iterator()) records.set(key, JSON.parse(String(value)));
  await encrypted.disconnect();
  return records;
}
