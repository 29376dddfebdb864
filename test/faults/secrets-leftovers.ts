import { z } from "zod";

// A reading of the records that shares nothing with the service.
const id = z.string();
const entries = z.object({ entries: z.array(z.object({ entry: z.object({ id, slug: id.optional() }) })) });
const ends = { revoked: z.number().optional(), expires: z.number().optional() };
const token = z.object({ id, role: z.string(), ...ends });
const workspace = z.object({
  id,
  name: id,
  deleting: z.boolean(),
  admins: z.array(z.object({ id, expires: z.number().optional() })),
});
const server = z.object({
  id,
  deleting: z.boolean(),
  secrets: z.array(z.object({ value: z.number() })),
  pending: z.array(z.unknown()),
  garbage: z.array(z.unknown()),
});

type Records = ReadonlyMap<string, unknown>;
type Part = readonly [key: string, parts: readonly string[], value: unknown];

/**
 * Returns the contradictions in the records of a service, which must never occur:
 *
 * - a usable record that no list names, or that lists name twice
 * - two workspaces with the same name
 * - a secret without its value
 * - a workspace whose list of admins names a token that is missing or revoked
 */
export function contradictionsIn(records: Records): readonly string[] {
  const problems: string[] = [];
  const open = openWorkspaces(records);
  const names = [...open.values()].map(({ name }) => name);
  for (const name of new Set(names.filter((each, index) => names.indexOf(each) !== index))) {
    problems.push(`two workspaces have the name ${name}`);
  }
  const listed = new Map<string, number>();
  for (const [key, , value] of partsOf(records, "list")) {
    if (key.endsWith("/head")) continue;
    for (const { entry } of entries.parse(value).entries) listed.set(entry.id, (listed.get(entry.id) ?? 0) + 1);
  }
  for (const [each, count] of listed) if (count > 1) problems.push(`lists name ${each} ${count} times`);
  const requireListed = (key: string, each: string) => {
    if (!listed.has(each)) problems.push(`no list names ${key}`);
  };
  for (const [each, { admins }] of open) {
    requireListed(`workspace/${each}`, each);
    for (const keeper of admins.filter(({ expires = Infinity }) => expires > Date.now())) {
      const kept = records.get(`token/${each}/${keeper.id}`);
      if (kept === undefined) problems.push(`the workspace ${each} names an admin that does not exist`);
      else if (token.parse(kept).revoked !== undefined)
        problems.push(`the workspace ${each} names an admin that is revoked`);
    }
  }
  for (const [key, [owner = ""], value] of partsOf(records, "token")) {
    if (owner === "service" || open.has(owner)) requireListed(key, token.parse(value).id);
  }
  for (const [key, [owner = ""], value] of partsOf(records, "server")) {
    const { id: each, deleting, secrets } = server.parse(value);
    if (!open.has(owner)) continue;
    requireListed(key, each);
    for (const secret of deleting ? [] : secrets) {
      const valueKey = `value/${owner}/${each}/${secret.value}`;
      if (!records.has(valueKey)) problems.push(`the server ${each} points to ${valueKey}, which is missing`);
    }
  }
  return problems;
}

/** Returns the names of workspaces that no valid token can manage. */
export function unmanagedIn(records: Records, now = Date.now()): readonly string[] {
  return [...openWorkspaces(records)].flatMap(([each, { name, admins }]) => {
    const tokens = partsOf(records, `token/${each}`).map(([, , value]) => token.parse(value));
    const valid = tokens.filter(({ revoked, expires = Infinity }) => revoked === undefined && expires > now);
    const listed = admins.filter(({ expires = Infinity }) => expires > now).map((keeper) => keeper.id);
    return valid.some((found) => found.role === "admin" && listed.includes(found.id)) ? [] : [name];
  });
}

/** Returns the unused records and entries that a sweep should have removed. */
export function leftoversIn(records: Records): readonly string[] {
  const problems: string[] = [];
  const workspaces = new Set(partsOf(records, "workspace").map(([, [each = ""]]) => each));
  const servers = new Map<string, z.infer<typeof server>>();
  const known = new Set<string>([...workspaces]);
  for (const [key, [owner], value] of partsOf(records, "server")) {
    const read = server.parse(value);
    servers.set(`${owner}/${read.id}`, read);
    known.add(read.id);
    if (read.deleting) problems.push(`${key} is being deleted`);
    if (read.pending.length + read.garbage.length > 0) problems.push(`${key} names values that it does not use`);
  }
  for (const [, [, each = ""]] of partsOf(records, "token")) known.add(each);
  for (const [key, [owner = ""]] of records.size === 0 ? [] : ownedIn(records)) {
    if (owner !== "service" && !workspaces.has(owner)) problems.push(`${key} belongs to no workspace`);
  }
  for (const [key, [owner, each, number]] of partsOf(records, "value")) {
    const read = servers.get(`${owner}/${each}`);
    const isUsed = read?.secrets.some(({ value }) => String(value) === number) === true;
    if (!isUsed) problems.push(`no server uses ${key}`);
  }
  for (const [key, [, each = ""]] of partsOf(records, "used")) if (!known.has(each)) problems.push(`${key} is left`);
  for (const [key, , value] of partsOf(records, "workspace")) {
    if (workspace.parse(value).deleting) problems.push(`${key} is being deleted`);
  }
  for (const [key, , value] of partsOf(records, "list")) {
    if (key.endsWith("/head")) continue;
    for (const { entry } of entries.parse(value).entries) {
      if (!known.has(entry.id)) problems.push(`${key} names ${entry.slug ?? entry.id}, which does not exist`);
    }
  }
  return problems;
}

function openWorkspaces(records: Records): ReadonlyMap<string, z.infer<typeof workspace>> {
  const all = partsOf(records, "workspace").map(([, , value]) => workspace.parse(value));
  return new Map(all.filter(({ deleting }) => !deleting).map((each) => [each.id, each]));
}

/** Returns the records that belong to a workspace or to the installation, with the parts of their keys. */
function ownedIn(records: Records): readonly Part[] {
  const lists = partsOf(records, "list").filter(([key]) => !key.startsWith("list/workspaces/"));
  return [...["token", "server", "value", "used"].flatMap((kind) => partsOf(records, kind)), ...lists];
}

/** Returns the records whose keys begin with a prefix, with the parts of each key after the prefix. */
function partsOf(records: Records, prefix: string): readonly Part[] {
  return [...records].flatMap(([key, value]): Part[] =>
    key.startsWith(`${prefix}/`) ? [[key, key.slice(prefix.length + 1).split("/"), value]] : [],
  );
}
