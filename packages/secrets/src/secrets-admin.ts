import {
  census,
  type EncryptedStore,
  type KeyProvider,
  Keyring,
  type RotationStatus,
  rotationStatus,
  type WrappableStore,
} from "@keyward/core";
import { presentedToken, requireCaller } from "./access/authentication.ts";
import { type Caller, checkedCaller, isLocal, local } from "./access/caller.ts";
import { LastUses } from "./access/last-uses.ts";
import { notInitialized } from "./access/not-initialized.ts";
import { notAllowed, requireRight, requireRightInWorkspace } from "./access/require-right.ts";
import type { Right } from "./access/rights.ts";
import { requireExpires, requireNewToken } from "./access/token-fields.ts";
import { Tokens } from "./access/tokens.ts";
import type { AuditLog } from "./audit/audit-log.ts";
import { Changes } from "./audit/changes.ts";
import { hasServer, recordedSecret, recordedServer, recordedToken, unknownName } from "./audit/recorded-names.ts";
import { explainCall } from "./calls/explain-call.ts";
import { findExpiringSecrets } from "./expiring-secrets.ts";
import { invalidField, requireField } from "./field-checks.ts";
import {
  fieldRules,
  idField,
  kindField,
  methodField,
  ownerField,
  secretNameField,
  slugField,
  timeField,
  toolField,
} from "./fields.ts";
import { type Initialization, Initializations } from "./initializations.ts";
import { requireTokensAccepted, type ServiceState, serviceState } from "./installation.ts";
import { requireNotLost } from "./lost-installation.ts";
import type {
  CallExplanation,
  CallerInfo,
  CallFilter,
  ChangeCondition,
  ChangeFilter,
  ExplainedCall,
  InjectionRule,
  IssuedToken,
  NewSecret,
  NewToken,
  Page,
  PageRequest,
  RecordedCall,
  RecordedChange,
  SecretChange,
  SecretInfo,
  ServerInfo,
  TokenInfo,
  WorkspaceInfo,
} from "./model.ts";
import { maxKeptKeepers } from "./records/keeper.ts";
import { orReport } from "./records/record-errors.ts";
import { installation } from "./records/record-keys.ts";
import { RecordsCheck } from "./records-check.ts";
import type { RecordsReport } from "./records-report.ts";
import { Revocations } from "./revocations.ts";
import { SecretsError } from "./secrets-error.ts";
import { requireRule } from "./servers/injection-rule.ts";
import { requireSecretValue, requireUnswapped } from "./servers/secret-value.ts";
import { type ServerAddress, serverNotFound } from "./servers/server-changes.ts";
import { requireHeaders } from "./servers/server-headers.ts";
import { ServerSecrets } from "./servers/server-secrets.ts";
import { requireOrigin, requireServerUrl } from "./servers/server-url.ts";
import { type NewServer, type ServerChange, Servers, serverExists } from "./servers/servers.ts";
import type { ServiceContext } from "./store/service-context.ts";
import { ServiceStore } from "./store/service-store.ts";
import { type ExpiringSecret, Sweep, type SweepOptions, type SweepReport } from "./sweep.ts";
import { Workspaces } from "./workspaces/workspaces.ts";

/** The options of {@link SecretsAdmin}. */
export interface SecretsAdminOptions {
  /** A store that can replace records atomically. The code that opened the store closes it. */
  readonly store: WrappableStore;
  /** The encryption keys: a keyring, or a key provider that loads a keyring. */
  readonly keys: Keyring | KeyProvider;
  /** The log in which each change is recorded. The code that opened the audit closes it. */
  readonly audit: AuditLog;
  /** Registers this process in the store as a replica, so that a rotation waits for it. Default: `false`. */
  readonly replica?: boolean | undefined;
  /**
   * Called with each problem that does not make a call fail, such as a former value that could not be deleted. The next
   * sweep tries again. Default: does nothing.
   */
  readonly onProblem?: ((problem: unknown) => void) | undefined;
}

/** The number of records under each encryption key, for operators. Contains the ids of keys, and no key material. */
export interface KeyCensus {
  /** The id of the primary key. */
  readonly primary: string;
  /** The number of records under each key, by the id of the key. */
  readonly records: Readonly<Record<string, number>>;
  /** The number of records that are not encrypted, or cannot be read. */
  readonly unreadable: number;
}

const longestOverlapMs = 30 * 24 * 3_600_000;

/**
 * The secrets service: workspaces with servers, secrets and tokens. Callers can set secrets, but no method returns a
 * secret's value. Each method that acts for a caller checks that the role of the caller allows this. Each change is
 * recorded in the audit before it is made.
 *
 * All methods throw `SecretsError` with the code `NOT_ALLOWED` for a caller without the right, `FIELD_INVALID` for a
 * field out of bounds, and `AUDIT_UNAVAILABLE` if a change cannot be recorded; `KeywardError` if the store or the keys
 * fail.
 *
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const service = new SecretsAdmin({ store, keys, audit });
 * const { admin } = await service.initialize();
 * const caller = await service.authenticate(admin.token);
 * await service.createServer(caller, { slug: "github", url: "https://mcp.example.com/mcp" });
 * const secret = { name: "GITHUB_TOKEN", value: "test-0123456789abcdef", rule: { kind: "bearer" } } as const;
 * await service.setSecret(caller, "github", secret);
 * console.log((await service.listSecrets(caller, "github")).secrets.map(({ name }) => name)); // [ "GITHUB_TOKEN" ]
 * await service.close();
 * await audit.close();
 */
export class SecretsAdmin {
  readonly #keys: Keyring | KeyProvider;
  readonly #context: ServiceContext;
  readonly #changes: Changes;
  readonly #lastUses: LastUses;
  readonly #tokens: Tokens;
  readonly #servers: Servers;
  readonly #secrets: ServerSecrets;
  readonly #workspaces: Workspaces;
  readonly #initializations: Initializations;
  readonly #revocations: Revocations;

  /**
   * Opens the service in a store.
   *
   * @throws KeywardError `STORE_NOT_ATOMIC` if the store has no `replace`; the errors of `new EncryptedStore`.
   */
  constructor({ store, keys, audit, replica, onProblem = () => {} }: SecretsAdminOptions) {
    this.#keys = keys;
    this.#context = { store: new ServiceStore({ store, keys, replica }), audit, onProblem };
    this.#changes = new Changes(this.#context);
    this.#lastUses = new LastUses(this.#context);
    this.#tokens = new Tokens(this.#context);
    this.#servers = new Servers(this.#context);
    this.#secrets = new ServerSecrets(this.#context);
    this.#workspaces = new Workspaces(this.#context, { tokens: this.#tokens, servers: this.#servers });
    const parts = { changes: this.#changes, tokens: this.#tokens, workspaces: this.#workspaces };
    this.#initializations = new Initializations(this.#context, parts);
    this.#revocations = new Revocations(this.#context, parts);
  }

  // The installation

  /**
   * Initializes the service in an empty store: creates the first operator, the first workspace and its admin. If an
   * earlier initialization was interrupted, begins again. If several processes call `initialize` at once, one of them
   * succeeds, and the others wait for it for up to five seconds.
   *
   * @param options.workspace the name of the first workspace. Default: "main".
   * @param options.deliver called with the first tokens, to store or print them. The tokens become valid after
   * `deliver` has resolved. If `deliver` throws, they never become valid, and the next call of `initialize` creates new
   * tokens. Default: does nothing.
   * @throws SecretsError `ALREADY_INITIALIZED`; `RECORD_MISSING` if the service was used before, so someone has removed
   * or replaced its record. KeywardError `STORE_NOT_SCANNABLE` if the store cannot be searched for records of a former
   * service. The errors of `deliver`.
   */
  async initialize({
    workspace = "main",
    deliver = async () => {},
  }: {
    readonly workspace?: string;
    readonly deliver?: (initialization: Initialization) => Promise<void>;
  } = {}): Promise<Initialization> {
    const name = requireField("workspace", slugField, workspace, fieldRules.slug);
    const caller = this.localOperator();
    return await this.#initializations.run(caller, name, deliver);
  }

  /**
   * Resolves if the service can be used: the store and the audit answer, the keys belong to the store, the service was
   * initialized, and a token that is created now would be valid.
   *
   * @throws SecretsError `NOT_INITIALIZED`, `AUDIT_UNAVAILABLE`; `CLOCK_JUMPED` if
   * {@link SecretsAdmin.revokeTokensBefore} was called with a time that is in the future by the clock of this machine;
   * the errors of `EncryptedStore.ready`.
   */
  async ready(): Promise<void> {
    const { store, audit } = this.#context;
    await store.encrypted.ready();
    await audit.ready();
    if ((await serviceState(store)) !== "initialized") throw notInitialized();
    await requireTokensAccepted(store, Date.now());
  }

  /**
   * Returns whether the store has no secrets service, one whose initialization was not finished, or one that can be
   * used. If the service is not initialized, scans the keys of the store.
   *
   * @throws SecretsError `RECORD_MISSING` if the service was used before, so someone has removed or replaced its
   * record; KeywardError `STORE_NOT_SCANNABLE`.
   */
  async state(): Promise<ServiceState> {
    return await requireNotLost(this.#context.store, this.#workspaces);
  }

  /**
   * Returns the caller to whom a token belongs.
   *
   * @param options.address the network address of the caller, for the audit.
   * @throws SecretsError `TOKEN_REFUSED` if the token is unknown, altered, revoked or expired.
   */
  async authenticate(token: string, { address }: { readonly address?: string | undefined } = {}): Promise<Caller> {
    const presented = presentedToken(token);
    const { caller } = requireCaller(presented, await this.#context.store.readBatch(presented.keys), address);
    this.#lastUses.note(presented.workspace, presented.id);
    return caller;
  }

  /**
   * Returns a caller with the role `operator` that needs no token: a person or program that has the keyring on this
   * machine. Never call this for a request from a network.
   */
  localOperator(): Caller {
    return checkedCaller({
      tokenId: local,
      owner: local,
      role: "operator",
      workspace: undefined,
      expires: undefined,
      address: undefined,
    });
  }

  /** Returns the token id, owner, role, workspace and expiry of a caller. */
  whoAmI(caller: Caller): CallerInfo {
    requireRight(caller, "whoami");
    const { tokenId, owner, role, workspace, expires } = caller;
    return { tokenId, owner, role, workspace, expires };
  }

  /** Counts the records under each key. Takes time in proportion to the number of records. */
  async census(caller: Caller): Promise<KeyCensus> {
    requireRight(caller, "keys.read");
    const records: Record<string, number> = {};
    let unreadable = 0;
    for (const store of this.#stores()) {
      const { keys, unsealed, broken } = await census(store);
      for (const [id, count] of keys) records[id] = (records[id] ?? 0) + count;
      unreadable += unsealed + broken;
    }
    return { primary: (await this.#provider().load()).primary, records, unreadable };
  }

  /**
   * Reads every record that the lists of the service refer to, and returns which records cannot be decrypted or are
   * missing. Then scans the store, and returns the records that no list and no other record refers to. Never returns a
   * value. Takes time and memory in proportion to the number of records. Changes nothing.
   *
   * @param caller the caller that {@link SecretsAdmin.localOperator} returned.
   * @throws SecretsError `NOT_ALLOWED` for a caller with a token.
   */
  async checkRecords(
    caller: Caller,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<RecordsReport> {
    requireRight(caller, "keys.read");
    if (!isLocal(caller)) throw notAllowed();
    const { store } = this.#context;
    const parts = { store, tokens: this.#tokens, servers: this.#servers, workspaces: this.#workspaces };
    return await new RecordsCheck(parts, signal).run();
  }

  /**
   * Returns the state of the rotation of the keys that is in progress, or else of the last one. Returns `undefined` if
   * there was no rotation.
   */
  async rotationStatus(caller: Caller): Promise<RotationStatus | undefined> {
    requireRight(caller, "keys.read");
    return await rotationStatus(this.#provider(), { stores: { service: this.#context.store.encrypted } });
  }

  // Workspaces

  /**
   * Creates a workspace and a token for its first admin. No other method returns the text of this token again.
   *
   * @throws SecretsError `WORKSPACE_EXISTS`; `SERVICE_BUSY` if another process began to create a workspace with this
   * name less than a minute ago.
   */
  async createWorkspace(
    caller: Caller,
    { name, adminOwner }: { readonly name: string; readonly adminOwner: string },
  ): Promise<{ readonly workspace: WorkspaceInfo; readonly admin: IssuedToken }> {
    requireRight(caller, "workspaces.change");
    const slug = requireField("name", slugField, name, fieldRules.slug);
    const owner = requireField("adminOwner", ownerField, adminOwner, fieldRules.owner);
    return await this.#changes.record(
      { action: "workspace.create", workspace: undefined, caller, subject: slug },
      async () => {
        const result = await this.#workspaces.create(slug, { owner, role: "admin" }, caller);
        return { result, revision: result.workspace.revision };
      },
    );
  }

  /** Returns a page of the workspaces. */
  async listWorkspaces(caller: Caller, page: PageRequest = {}): Promise<Page<WorkspaceInfo>> {
    requireRight(caller, "workspaces.read");
    return await this.#workspaces.page(page);
  }

  /**
   * Returns a workspace.
   *
   * @throws SecretsError `WORKSPACE_NOT_FOUND`.
   */
  async getWorkspace(caller: Caller, name: string): Promise<WorkspaceInfo> {
    requireRight(caller, "workspaces.read");
    return await this.#workspaces.get(requireField("name", slugField, name, fieldRules.slug));
  }

  /**
   * Deletes a workspace with its servers, secrets and tokens. This cannot be undone.
   *
   * @throws SecretsError `WORKSPACE_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async deleteWorkspace(caller: Caller, name: string, condition: ChangeCondition = {}): Promise<void> {
    requireRight(caller, "workspaces.change");
    const slug = requireField("name", slugField, name, fieldRules.slug);
    const isKnown = await orReport(() => this.#workspaces.exists(slug), this.#context.onProblem);
    const subject = isKnown === true ? slug : unknownName;
    await this.#changes.record({ action: "workspace.delete", workspace: undefined, caller, subject }, async () => ({
      result: await this.#workspaces.delete(slug, condition),
    }));
  }

  // Servers

  /**
   * Adds a server to the workspace of the caller.
   *
   * @throws SecretsError `SERVER_EXISTS`.
   */
  async createServer(
    caller: Caller,
    { slug, url, kind = "mcp", forwardHeaders, relayHeaders }: NewServer,
  ): Promise<ServerInfo> {
    const address = this.#serverAddress(caller, "servers.change", slug);
    const headers = {
      forwardHeaders: requireHeaders("forwardHeaders", forwardHeaders),
      relayHeaders: requireHeaders("relayHeaders", relayHeaders),
    };
    const checked = {
      slug: address.slug,
      url: requireServerUrl(url),
      kind: requireField("kind", kindField, kind, "`mcp` or `http`"),
      ...headers,
    };
    // A refused change records no URL and no headers: a person may have pasted a value there.
    const isTaken = await hasServer(this.#context.store, address);
    const detail = isTaken ? undefined : [`${checked.kind} ${checked.url}`, ...detailsOf(headers)].join(", ");
    const change = {
      workspace: address.workspace,
      caller,
      server: address.slug,
      action: "server.create",
      detail,
    } as const;
    return await this.#changes.record(change, async () => {
      if (isTaken) throw serverExists(address.slug);
      const result = await this.#servers.create(address.workspace, checked, caller.owner);
      return { result, revision: result.revision };
    });
  }

  /** Returns a page of the servers of the caller's workspace. */
  async listServers(caller: Caller, page: PageRequest = {}): Promise<Page<ServerInfo>> {
    return await this.#servers.list(requireRightInWorkspace(caller, "servers.read"), page);
  }

  /**
   * Returns a server of the caller's workspace.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`.
   */
  async getServer(caller: Caller, slug: string): Promise<ServerInfo> {
    return await this.#servers.get(this.#serverAddress(caller, "servers.read", slug));
  }

  /**
   * Changes a server. If the origin of the URL changes (scheme, host or port), calls cannot use the server's values until
   * the values are set again.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async updateServer(
    caller: Caller,
    slug: string,
    { url, kind, forwardHeaders, relayHeaders, disabled }: ServerChange,
    condition: ChangeCondition = {},
  ): Promise<ServerInfo> {
    const address = this.#serverAddress(caller, "servers.change", slug);
    const checked: ServerChange = {
      url: url === undefined ? undefined : requireServerUrl(url),
      kind: kind === undefined ? undefined : requireField("kind", kindField, kind, "`mcp` or `http`"),
      forwardHeaders: requireHeaders("forwardHeaders", forwardHeaders),
      relayHeaders: requireHeaders("relayHeaders", relayHeaders),
      disabled,
    };
    const change = await this.#serverChange(caller, address);
    const isUnknown = change.server === unknownName;
    const detail = isUnknown ? undefined : detailsOf(checked).join(", ");
    return await this.#changes.record({ ...change, action: "server.update", detail }, async () => {
      if (isUnknown) throw serverNotFound();
      const result = await this.#servers.update(address, checked, condition);
      return { result, revision: result.revision };
    });
  }

  /**
   * Deletes a server with its secrets. This cannot be undone.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async deleteServer(caller: Caller, slug: string, condition: ChangeCondition = {}): Promise<void> {
    const address = this.#serverAddress(caller, "servers.change", slug);
    const change = await this.#serverChange(caller, address);
    await this.#changes.record({ ...change, action: "server.delete" }, async () => {
      const revision = await this.#servers.delete(address, condition);
      return { result: undefined, revision };
    });
  }

  // Secrets

  /**
   * Sets a secret of a server. Calls that begin after this method has resolved use the new value. The former value is
   * deleted from the store.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`; `RULE_CONFLICT` if another secret sets the same header; `LIMIT_REACHED`
   * for more than 100 secrets; `REVISION_CHANGED`; `ORIGIN_CHANGED` if the server does not have the origin
   * `secret.expectedOrigin`.
   */
  async setSecret(
    caller: Caller,
    slug: string,
    secret: NewSecret,
    condition: ChangeCondition = {},
  ): Promise<SecretChange> {
    const address = this.#serverAddress(caller, "secrets.change", slug);
    const name = requireField("name", secretNameField, secret.name, fieldRules.secretName);
    // Checked before the name is recorded, because people swap name and value.
    const value = requireSecretValue(secret.value);
    requireUnswapped(name, value);
    const checked = {
      name,
      value,
      rule: secret.rule === undefined ? undefined : requireRule(secret.rule),
      expires: requireExpires(secret.expires),
      redacted: secret.redacted ?? true,
      setBy: caller.owner,
      expectedOrigin: secret.expectedOrigin === undefined ? undefined : requireOrigin(secret.expectedOrigin),
    };
    const change = await this.#serverChange(caller, address);
    // Without the server, the secret does not exist, and its name may be a value.
    const subject = change.server === unknownName ? unknownName : name;
    return await this.#changes.record({ ...change, action: "secret.set", subject }, async () => {
      const result = await this.#secrets.set(address, checked, condition);
      return { result, revision: result.revision };
    });
  }

  /**
   * Returns what is known about the secrets of a server, sorted by name: at most 100.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`.
   */
  async listSecrets(
    caller: Caller,
    slug: string,
  ): Promise<{ readonly server: ServerInfo; readonly secrets: readonly SecretInfo[] }> {
    return await this.#secrets.list(this.#serverAddress(caller, "secrets.read", slug));
  }

  /**
   * Deletes a secret with its value.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `SECRET_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async deleteSecret(caller: Caller, slug: string, name: string, condition: ChangeCondition = {}): Promise<ServerInfo> {
    const address = this.#serverAddress(caller, "secrets.change", slug);
    const given = requireField("name", secretNameField, name, fieldRules.secretName);
    const change = await this.#serverChange(caller, address);
    const subject = await recordedSecret(this.#context.store, address, given);
    return await this.#changes.record({ ...change, action: "secret.delete", subject }, async () => {
      const { server } = await this.#secrets.delete(address, given, condition);
      return { result: server, revision: server.revision };
    });
  }

  /**
   * Deletes all secrets of a server with their values. Returns the names of the deleted secrets.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async deleteAllSecrets(
    caller: Caller,
    slug: string,
    condition: ChangeCondition = {},
  ): Promise<{ readonly server: ServerInfo; readonly names: readonly string[] }> {
    const address = this.#serverAddress(caller, "secrets.change", slug);
    const change = await this.#serverChange(caller, address);
    if (change.server !== unknownName && condition.ifRevision === undefined) {
      const server = await this.#servers.get(address);
      // Without a secret nothing changes, so nothing is recorded.
      if (server.secretCount === 0) return { server, names: [] };
    }
    return await this.#changes.record({ ...change, action: "secret.delete", detail: "all secrets" }, async () => {
      const result = await this.#secrets.delete(address, undefined, condition);
      return { result, revision: result.server.revision };
    });
  }

  /**
   * Changes the rule by which a secret's value enters a request.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `SECRET_NOT_FOUND`, `RULE_CONFLICT`, `REVISION_CHANGED`.
   */
  async setInjection(
    caller: Caller,
    slug: string,
    name: string,
    rule: InjectionRule,
    condition: ChangeCondition = {},
  ): Promise<SecretChange> {
    const address = this.#serverAddress(caller, "secrets.change", slug);
    const given = requireField("name", secretNameField, name, fieldRules.secretName);
    const checked = requireRule(rule);
    const change = await this.#serverChange(caller, address);
    const subject = await recordedSecret(this.#context.store, address, given);
    return await this.#changes.record(
      { ...change, action: "secret.inject", subject, detail: checked.kind },
      async () => {
        const result = await this.#secrets.inject(address, given, checked, condition);
        return { result, revision: result.revision };
      },
    );
  }

  // Tokens

  /**
   * Creates a token. Its text is returned once. An operator creates tokens of operators, and an admin the tokens of
   * one workspace.
   *
   * @throws SecretsError `SERVER_NOT_FOUND` for a server that the workspace does not have; `LIMIT_REACHED` for more than
   * 100 admins or operators.
   */
  async createToken(caller: Caller, token: NewToken): Promise<IssuedToken> {
    const workspace = tokenWorkspace(caller, "tokens.change");
    const checked = requireNewToken(caller, token);
    if (checked.servers !== undefined) await this.#servers.requireAll(workspace, checked.servers);
    const detail = `${checked.role}, ${checked.owner}`;
    return await this.#changes.record(
      { action: "token.create", workspace: caller.workspace, caller, detail },
      async () => ({
        result: await this.#tokens.create(workspace, checked, caller),
      }),
    );
  }

  /**
   * Returns a page of tokens: for an operator, the tokens of operators; for any other caller, the tokens of the
   * caller's workspace.
   */
  async listTokens(
    caller: Caller,
    page: PageRequest & { readonly owner?: string | undefined } = {},
  ): Promise<Page<TokenInfo>> {
    return await this.#tokens.list(tokenWorkspace(caller, "tokens.read"), page);
  }

  /**
   * Revokes a token. Calls that begin after this method has resolved are refused, on every process.
   *
   * @throws SecretsError `TOKEN_NOT_FOUND`; `LAST_ADMIN` for the last admin of a workspace.
   */
  async revokeToken(caller: Caller, id: string): Promise<TokenInfo> {
    const workspace = tokenWorkspace(caller, "tokens.change");
    const given = requireField("id", idField, id, fieldRules.id);
    const subject = await recordedToken(this.#context.store, workspace, given);
    return await this.#changes.record(
      { action: "token.revoke", workspace: caller.workspace, caller, subject },
      async () => ({ result: await this.#tokens.revoke(workspace, given) }),
    );
  }

  /**
   * Revokes every token of an owner, and returns the ids of the tokens that were revoked.
   *
   * @throws SecretsError `LAST_ADMIN` if one of these tokens is that of the last admin of the workspace. The other
   * tokens of the owner are still revoked.
   */
  async revokeTokensOf(caller: Caller, owner: string): Promise<readonly string[]> {
    const workspace = tokenWorkspace(caller, "tokens.change");
    const name = requireField("owner", ownerField, owner, fieldRules.owner);
    return await this.#revocations.ofOwner(caller, workspace, name);
  }

  /**
   * Replaces a token: creates a token with the same owner, role, scopes and expiry, and lets the old token expire after
   * `overlapMs`. The old token may have got its expiry from an earlier rotation. The new token then has this expiry,
   * too, so that no rotation prolongs the access.
   *
   * @param options.overlapMs how long both tokens can be used, in milliseconds: at most 30 days.
   * @throws SecretsError `TOKEN_NOT_FOUND`; `SERVICE_BUSY` if another rotation of the token runs at the same time.
   */
  async rotateToken(caller: Caller, id: string, { overlapMs }: { readonly overlapMs: number }): Promise<IssuedToken> {
    const workspace = tokenWorkspace(caller, "tokens.change");
    const given = requireField("id", idField, id, fieldRules.id);
    if (!Number.isSafeInteger(overlapMs) || overlapMs < 0 || overlapMs > longestOverlapMs) {
      throw invalidField("overlapMs", "an integer between 0 and 30 days, in milliseconds");
    }
    const subject = await recordedToken(this.#context.store, workspace, given);
    return await this.#changes.record(
      { action: "token.rotate", workspace: caller.workspace, caller, subject },
      async () => ({
        result: await this.#tokens.rotate(workspace, given, overlapMs, caller),
      }),
    );
  }

  /**
   * Creates a token of an operator, or of an admin of a workspace, for a caller that has the keyring on this machine.
   *
   * @param caller the caller that {@link SecretsAdmin.localOperator} returned.
   * @param options.workspace the name of the workspace whose admin gets the token. Default: the token is for an
   * operator.
   * @throws SecretsError `NOT_ALLOWED` for a caller with a token; `WORKSPACE_NOT_FOUND`.
   */
  async recoverToken(
    caller: Caller,
    { workspace, owner }: { readonly workspace?: string | undefined; readonly owner: string },
  ): Promise<IssuedToken> {
    requireRight(caller, "workspaces.change");
    if (!isLocal(caller)) throw notAllowed();
    const name = requireField("owner", ownerField, owner, fieldRules.owner);
    const id = workspace === undefined ? undefined : (await this.#workspaces.require(workspace)).id;
    const role = id === undefined ? "operator" : "admin";
    return await this.#changes.record(
      { action: "token.recover", workspace: id, caller, detail: `${role}, ${name}` },
      async () => ({
        result: await this.#tokens.create(id ?? installation, { owner: name, role }, caller, { limit: maxKeptKeepers }),
      }),
    );
  }

  /**
   * Revokes every token that was created before `time`: the tokens of all workspaces and of operators, including the
   * last admins. Call it after a store was restored from a backup, because tokens that were revoked after the backup
   * are valid again. Also revokes tokens whose creation time is in the future, which a machine with a wrong clock has
   * created.
   *
   * Returns the number of tokens whose records are now marked as revoked. A token whose record cannot be read is
   * refused, too, and the problem is reported to `onProblem`.
   *
   * @param caller the caller that {@link SecretsAdmin.localOperator} returned.
   * @param time in milliseconds since the epoch. Not after now.
   * @param options.clockWasAhead true if the time of the last call is still in the future, because a clock was ahead.
   * Then `time` replaces the time of the last call. Default: false.
   * @throws SecretsError `NOT_ALLOWED` for a caller with a token; `CLOCK_JUMPED` if the time of the last call is still
   * in the future, and `clockWasAhead` is false.
   */
  async revokeTokensBefore(
    caller: Caller,
    time: number,
    { clockWasAhead = false }: { readonly clockWasAhead?: boolean } = {},
  ): Promise<number> {
    requireRight(caller, "workspaces.change");
    if (!isLocal(caller)) throw notAllowed();
    const before = requireField("time", timeField, time, fieldRules.time);
    if (before > Date.now()) throw invalidField("time", "a time that has passed");
    return await this.#revocations.createdBefore(caller, before, { clockWasAhead });
  }

  // The audit

  /**
   * Returns a page of changes: for an operator, the changes of the installation; for any other caller, the changes of
   * the caller's workspace.
   */
  async listChanges(caller: Caller, filter: ChangeFilter = {}, page: PageRequest = {}): Promise<Page<RecordedChange>> {
    requireRight(caller, "changes.read");
    return await this.#context.audit.changes(caller.workspace, filter, page);
  }

  /** Returns a page of the calls of the caller's workspace. The call that ended last is the first. */
  async listCalls(caller: Caller, filter: CallFilter = {}, page: PageRequest = {}): Promise<Page<RecordedCall>> {
    return await this.#context.audit.calls(requireRightInWorkspace(caller, "calls.read"), filter, page);
  }

  /**
   * Returns the call with this id, from the caller's workspace. The gateway sends the id of a call together with its
   * answer.
   *
   * @throws SecretsError `CALL_NOT_FOUND`; `AUDIT_INVALID` if the entry of the call cannot be read.
   */
  async findCall(caller: Caller, id: string): Promise<RecordedCall> {
    const call = await this.#context.audit.call(requireRightInWorkspace(caller, "calls.read"), id);
    if (call !== undefined) return call;
    throw new SecretsError("CALL_NOT_FOUND", "The audit of the workspace has no call with this id", {
      hint: "Check the id. If the call is in progress, wait until it has ended. If the call is older than the retention of the workspace, its entry was removed. A request whose token or path was refused has an id, but is not recorded.",
    });
  }

  /**
   * Returns which secrets a call would use and where it would go, or why it would be refused. Makes no call, and
   * returns no value.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, `TOKEN_NOT_FOUND`.
   */
  async explainCall(caller: Caller, { server, tokenId, ...call }: ExplainedCall): Promise<CallExplanation> {
    const { workspace, slug } = this.#serverAddress(caller, "calls.explain", server);
    const id = requireField("tokenId", idField, tokenId, fieldRules.id);
    const tool = requireField("tool", toolField.optional(), call.tool, fieldRules.tool);
    const method = requireField("method", methodField.optional(), call.method, fieldRules.method);
    return await explainCall(this.#context.store, workspace, { server: slug, tokenId: id, tool, method });
  }

  /**
   * Finishes the changes that processes did not finish before they ended, and removes records that are no longer
   * needed. Call it about once an hour.
   */
  async sweep(options: SweepOptions = {}): Promise<SweepReport> {
    const parts = {
      context: this.#context,
      tokens: this.#tokens,
      servers: this.#servers,
      workspaces: this.#workspaces,
    };
    return await new Sweep(parts, options).run();
  }

  /**
   * Returns the secrets, of all workspaces, whose values have expired or will expire within seven days: at most 100.
   * Changes nothing. Records that cannot be read are reported to `onProblem`.
   *
   * @param caller the caller that {@link SecretsAdmin.localOperator} returned.
   * @throws SecretsError `NOT_ALLOWED` for a caller with a token.
   */
  async expiringSecrets(caller: Caller): Promise<readonly ExpiringSecret[]> {
    requireRight(caller, "workspaces.read");
    if (!isLocal(caller)) throw notAllowed();
    return await findExpiringSecrets({
      servers: this.#servers,
      workspaces: this.#workspaces,
      context: this.#context,
    });
  }

  /**
   * Waits for the writes in the background, and stops the heartbeat of this process. Does not close the store and the
   * audit.
   */
  async close(): Promise<void> {
    await this.#lastUses.settled();
    await this.#context.store.disconnect();
  }

  #stores(): readonly EncryptedStore[] {
    const { store, audit } = this.#context;
    return audit.encrypted === undefined ? [store.encrypted] : [store.encrypted, audit.encrypted];
  }

  #provider(): KeyProvider {
    const keys = this.#keys;
    return keys instanceof Keyring ? { load: async () => keys } : keys;
  }

  #serverAddress(caller: Caller, right: Right, slug: string): ServerAddress {
    const workspace = requireRightInWorkspace(caller, right);
    return { workspace, slug: requireField("slug", slugField, slug, fieldRules.slug) };
  }

  async #serverChange(caller: Caller, address: ServerAddress) {
    const server = await recordedServer(this.#context.store, address);
    return { workspace: address.workspace, caller, server };
  }
}

/** Returns the settings that a change of a server sets, as texts for the audit, such as `disabled true`. */
function detailsOf(change: ServerChange): readonly string[] {
  return Object.entries(change).flatMap(([name, value]: [string, ServerChange[keyof ServerChange]]) => {
    if (value === undefined) return [];
    return [`${name} ${typeof value === "object" ? value.join(" ") || "none" : value}`];
  });
}

/**
 * Returns the id of the workspace whose tokens a caller manages: `service` for an operator, else the caller's own
 * workspace.
 */
function tokenWorkspace(caller: Caller, right: Right): string {
  requireRight(caller, right);
  if (caller.workspace !== undefined) return caller.workspace;
  if (caller.role === "operator") return installation;
  throw notAllowed();
}
