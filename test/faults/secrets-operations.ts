import type { Caller, InjectionRule, Role, SecretsAdmin, SecretsErrorCode } from "@keyward/secrets";

/** The secrets service in one process, and the callers of its operations. */
export interface ServiceProcess {
  readonly admin: SecretsAdmin;
  readonly as: Readonly<Record<"admin" | "operator" | "spare" | "local", Caller>>;
}

/** The tokens of a service that {@link prepare} has filled, with their texts and ids. */
export interface World {
  readonly tokens: Readonly<Record<TokenName, string>>;
  readonly ids: Readonly<Record<TokenName, string>>;
  /** A time after all of these tokens were created, in milliseconds since the epoch. */
  readonly madeBefore: number;
  /** The revision of the server `github` in the workspace `main`. */
  readonly revision: number;
}

type TokenName = "admin" | "second" | "member" | "other" | "operator" | "spare" | "spareAdmin";

/** @param who a name that becomes part of the written values, so that the writes of two processes differ. */
export type ServiceStep = (process: ServiceProcess, world: World, who: string) => Promise<unknown>;

/** A change of the service, or a sweep. */
export interface Operation {
  readonly name: string;
  readonly run: ServiceStep;
  /** The operation of other processes while this process is halted. Default: `run`. */
  readonly others?: ServiceStep;
  /** A further operation of other processes after `others`, while this process is still halted. */
  readonly meanwhile?: ServiceStep;
  /** Operations that each produce a state that is allowed if the process ends in the middle of this operation. */
  readonly between?: readonly ServiceStep[];
  /** Operations that each produce a state that is allowed if two processes make this operation at the same time. */
  readonly atOnce?: readonly ServiceStep[];
  /** True if the operation changes many records one by one, and must be repeated until it is complete. */
  readonly isGradual?: boolean;
  /** The codes with which the operation may be refused if this or another process has already made it. */
  readonly refusals: readonly SecretsErrorCode[];
}

const header: InjectionRule = { kind: "header", header: "X-Key" };

/** Fills a new service: the workspaces `main` and `spare` with servers, secrets and tokens. */
export async function prepare(admin: SecretsAdmin): Promise<World> {
  const first = await admin.initialize();
  const [asAdmin, asOperator] = [await admin.authenticate(first.admin.token), admin.localOperator()];
  const token = (caller: Caller, owner: string, role: Role) => admin.createToken(caller, { owner, role });
  const second = await token(asAdmin, "second admin", "admin");
  const member = await token(asAdmin, "member", "member");
  const other = await token(asAdmin, "other member", "member");
  await addServer(admin, asAdmin, "github", ["ONE", "TWO"]);
  await addServer(admin, asAdmin, "jira", ["KEY"]);
  const { revision } = await admin.getServer(asAdmin, "github");
  const spare = await admin.createWorkspace(asOperator, { name: "spare", adminOwner: "spare admin" });
  const asSpare = await admin.authenticate(spare.admin.token);
  await addServer(admin, asSpare, "github", ["SPARE"]);
  const spareMember = await token(asSpare, "spare member", "member");
  const issued = {
    admin: first.admin,
    second,
    member,
    other,
    operator: first.operator,
    spare: spareMember,
    spareAdmin: spare.admin,
  };
  const of = <Field>(read: (name: TokenName) => Field): Readonly<Record<TokenName, Field>> => ({
    admin: read("admin"),
    second: read("second"),
    member: read("member"),
    other: read("other"),
    operator: read("operator"),
    spare: read("spare"),
    spareAdmin: read("spareAdmin"),
  });
  return {
    tokens: of((name) => issued[name].token),
    ids: of((name) => issued[name].info.id),
    madeBefore: Date.now() + 1,
    revision,
  };
}

/** Returns the service of a process with its callers, which are read from the store. */
export async function processOf(admin: SecretsAdmin, { tokens }: World): Promise<ServiceProcess> {
  const as = {
    admin: await admin.authenticate(tokens.admin),
    operator: await admin.authenticate(tokens.operator),
    spare: await admin.authenticate(tokens.spareAdmin),
    local: admin.localOperator(),
  };
  return { admin, as };
}

async function addServer(admin: SecretsAdmin, caller: Caller, slug: string, names: readonly string[]): Promise<void> {
  await admin.createServer(caller, { slug, url: "https://mcp.example.com/mcp" });
  for (const name of names) {
    const rule = { kind: "header", header: `X-${name}` } as const;
    await admin.setSecret(caller, slug, { name, value: `first value of ${name}`, rule });
  }
}

const deleteSpare = ({ admin, as }: ServiceProcess) => admin.deleteWorkspace(as.operator, "spare");
const addMember = ({ admin, as }: ServiceProcess) => admin.createToken(as.admin, { owner: "member", role: "member" });
const addSecondAdmin = ({ admin, as }: ServiceProcess) =>
  admin.createToken(as.admin, { owner: "second admin", role: "admin" });

/** Every operation that writes, each a change of what {@link prepare} has made. */
export const operations: readonly Operation[] = [
  {
    name: "set a new secret",
    run: ({ admin, as }, _, who) =>
      admin.setSecret(as.admin, "github", { name: "NEW", value: `new value of ${who}`, rule: header }),
    refusals: [],
    meanwhile: ({ admin, as }) => admin.setInjection(as.admin, "github", "TWO", { kind: "bearer" }),
  },
  {
    name: "set a secret again",
    run: ({ admin, as }, _, who) => admin.setSecret(as.admin, "github", { name: "ONE", value: `value of ${who}` }),
    refusals: [],
  },
  {
    name: "set a secret at a revision",
    run: ({ admin, as }, { revision }, who) =>
      admin.setSecret(as.admin, "github", { name: "ONE", value: `value of ${who}` }, { ifRevision: revision }),
    refusals: ["REVISION_CHANGED"],
    meanwhile: ({ admin, as }) => admin.setInjection(as.admin, "github", "TWO", { kind: "bearer" }),
  },
  {
    name: "delete a secret",
    run: ({ admin, as }) => admin.deleteSecret(as.admin, "github", "ONE"),
    refusals: ["SECRET_NOT_FOUND"],
  },
  {
    name: "delete all secrets",
    run: ({ admin, as }) => admin.deleteAllSecrets(as.admin, "github"),
    refusals: [],
  },
  {
    name: "change the rule of a secret",
    run: ({ admin, as }, _, who) =>
      admin.setInjection(as.admin, "github", "ONE", { kind: "header", header: `X-Of-${who}` }),
    refusals: [],
  },
  {
    name: "change the URL of a server",
    run: ({ admin, as }, _, who) => admin.updateServer(as.admin, "github", { url: `https://${who}.example.com` }),
    refusals: [],
  },
  {
    name: "create a server",
    run: ({ admin, as }, _, who) => admin.createServer(as.admin, { slug: "fresh", url: `https://${who}.example.com` }),
    refusals: ["SERVER_EXISTS", "SERVER_NOT_FOUND"],
    meanwhile: ({ admin, as }) => admin.updateServer(as.admin, "fresh", { url: "https://changed.example.com" }),
  },
  {
    name: "delete a server",
    run: ({ admin, as }) => admin.deleteServer(as.admin, "github"),
    refusals: ["SERVER_NOT_FOUND"],
  },
  {
    name: "create a workspace",
    run: ({ admin, as }, _, who) => admin.createWorkspace(as.operator, { name: "fresh", adminOwner: who }),
    refusals: ["WORKSPACE_EXISTS", "SERVICE_BUSY"],
  },
  {
    name: "delete a workspace",
    run: ({ admin, as }) => admin.deleteWorkspace(as.operator, "spare"),
    refusals: ["WORKSPACE_NOT_FOUND"],
  },
  {
    name: "create the token of a member",
    run: ({ admin, as }, _, who) => admin.createToken(as.admin, { owner: who, role: "member" }),
    refusals: [],
  },
  {
    name: "create the token of an admin",
    run: ({ admin, as }, _, who) => admin.createToken(as.admin, { owner: who, role: "admin" }),
    refusals: [],
  },
  {
    name: "create the token of an operator",
    run: ({ admin, as }, _, who) => admin.createToken(as.operator, { owner: who, role: "operator" }),
    refusals: [],
  },
  {
    name: "revoke the token of a member",
    run: ({ admin, as }, { ids }) => admin.revokeToken(as.admin, ids.member),
    refusals: [],
  },
  {
    name: "revoke the token of an admin",
    run: ({ admin, as }, { ids }) => admin.revokeToken(as.admin, ids.second),
    refusals: [],
  },
  {
    name: "rotate the token of a member",
    run: ({ admin, as }, { ids }) => admin.rotateToken(as.admin, ids.member, { overlapMs: 0 }),
    // A rotation whose write arrives late finds that others have rotated the token.
    refusals: ["TOKEN_NOT_FOUND", "SERVICE_BUSY"],
    between: [addMember],
    atOnce: [
      addMember,
      async (process, { ids }) => {
        await addMember(process);
        await process.admin.rotateToken(process.as.admin, ids.member, { overlapMs: 0 });
      },
    ],
  },
  {
    name: "rotate the token of an admin",
    run: ({ admin, as }, { ids }) => admin.rotateToken(as.admin, ids.second, { overlapMs: 0 }),
    refusals: ["TOKEN_NOT_FOUND", "SERVICE_BUSY"],
    between: [addSecondAdmin],
    atOnce: [
      addSecondAdmin,
      async (process, { ids }) => {
        await addSecondAdmin(process);
        await process.admin.rotateToken(process.as.admin, ids.second, { overlapMs: 0 });
      },
    ],
  },
  {
    name: "recover the token of an admin",
    run: ({ admin, as }, _, who) => admin.recoverToken(as.local, { workspace: "main", owner: who }),
    refusals: [],
  },
  {
    name: "revoke the tokens that were created before a restore",
    run: ({ admin, as }, { madeBefore }) => admin.revokeTokensBefore(as.local, madeBefore),
    refusals: [],
    isGradual: true,
  },
  {
    name: "set a secret while others create the server again",
    run: ({ admin, as }, _, who) => admin.setSecret(as.admin, "github", { name: "ONE", value: `value of ${who}` }),
    others: ({ admin, as }) => admin.deleteServer(as.admin, "github"),
    meanwhile: ({ admin, as }) =>
      admin.createServer(as.admin, { slug: "github", url: "https://again.example.com", kind: "http" }),
    refusals: ["SERVER_NOT_FOUND", "SERVER_EXISTS"],
  },
  {
    name: "set a secret while others delete the workspace",
    run: ({ admin, as }, _, who) => admin.setSecret(as.spare, "github", { name: "SPARE", value: `value of ${who}` }),
    others: deleteSpare,
    refusals: ["SERVER_NOT_FOUND", "WORKSPACE_NOT_FOUND", "TOKEN_REFUSED"],
  },
  {
    name: "create a server while others delete the workspace",
    run: ({ admin, as }) => admin.createServer(as.spare, { slug: "fresh", url: "https://mcp.example.com" }),
    others: deleteSpare,
    refusals: ["SERVER_EXISTS", "WORKSPACE_NOT_FOUND", "TOKEN_REFUSED"],
  },
  {
    name: "create a token while others delete the workspace",
    run: ({ admin, as }, _, who) => admin.createToken(as.spare, { owner: who, role: "admin" }),
    others: deleteSpare,
    refusals: ["WORKSPACE_NOT_FOUND", "TOKEN_REFUSED"],
  },
  {
    name: "sweep",
    run: ({ admin }) => admin.sweep({ now: Date.now() + 2 * 24 * 3_600_000, abandonedAfterMs: 0 }),
    refusals: [],
  },
];
