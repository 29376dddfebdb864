import type { KeyProvider, Keyring, WrappableStore } from "@keyward/core";
import { type PresentedToken, presentedToken, requireCaller } from "../access/authentication.ts";
import type { Caller } from "../access/caller.ts";
import { LastUses } from "../access/last-uses.ts";
import { notInitialized } from "../access/not-initialized.ts";
import { notAllowed } from "../access/require-right.ts";
import { hasRight } from "../access/rights.ts";
import { type EndedCall, endedCalls, type OpenCall } from "../calls/open-calls.ts";
import { isSameHeader } from "../header-rules.ts";
import type { InjectionRule, ServerKind } from "../model.ts";
import { installation, serverKey, serviceKey, valueKey, workspaceKey } from "../records/record-keys.ts";
import { type ServerRecord, serverRecord } from "../records/server-record.ts";
import { serviceRecord } from "../records/service-record.ts";
import type { TokenRecord } from "../records/token-record.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError, type SecretsErrorCode } from "../secrets-error.ts";
import { headerOf } from "../servers/injection-rule.ts";
import { originOf } from "../servers/server-url.ts";
import { type ReadBatch, ServiceStore } from "../store/service-store.ts";
import { type CallableServer, callableServers } from "./callable-servers.ts";
import { RefusedCall } from "./refused-call.ts";
import { SecretValue } from "./secret-value.ts";
import { SessionKey } from "./session-key.ts";
import { valueRecord } from "./value-reading.ts";

/** The options of {@link SecretsReader}. */
export interface SecretsReaderOptions {
  /** The store of the service. The code that opened the store closes it. */
  readonly store: WrappableStore;
  /** The encryption keys: a keyring, or a key provider that loads a keyring. */
  readonly keys: Keyring | KeyProvider;
  /** Registers this process in the store as a replica, so that a rotation waits for it. Default: `false`. */
  readonly replica?: boolean | undefined;
  /** Called with a problem that does not make a call fail. Default: does nothing. */
  readonly onProblem?: ((problem: unknown) => void) | undefined;
}

/** A secret that a call uses. */
export interface CallSecret {
  readonly name: string;
  /** The revision of the server at which the value was set. */
  readonly revision: number;
  readonly rule: InjectionRule;
  readonly value: SecretValue;
  /** Whether the gateway searches answers for the value. */
  readonly redacted: boolean;
}

/** What one call needs: who calls, where the call goes, and with which values. */
export interface CallGrant {
  readonly caller: Caller;
  readonly workspace: { readonly id: string; readonly name: string };
  /** The MAC key for session ids, which all workspaces share. */
  readonly sessionKey: SessionKey;
  /** The tools that the caller may call; `undefined` for all. */
  readonly tools: readonly string[] | undefined;
  /** The HTTP methods that the caller may use; `undefined` for all. */
  readonly methods: readonly string[] | undefined;
  readonly server: {
    readonly id: string;
    readonly slug: string;
    readonly url: string;
    readonly kind: ServerKind;
    readonly revision: number;
    /**
     * Headers of the caller that the gateway forwards, in lower case. Contains no header that a rule puts a secret's
     * value into.
     */
    readonly forwardHeaders: readonly string[];
    /** Headers of the answer that the gateway relays, in lower case. */
    readonly relayHeaders: readonly string[];
  };
  readonly secrets: readonly CallSecret[];
}

/** A call in progress whose answer is searched for the values of its server. */
export interface SearchedCall extends Pick<OpenCall, "caller" | "server"> {
  /** The revision of the server at which its values were read. */
  readonly searchedRevision: number;
}

/** The secrets of a server that has changed since a call began. */
export interface NewSecrets<Call extends SearchedCall> {
  /** The call, as it was passed. */
  readonly call: Call;
  /** The secrets that the server has now. */
  readonly secrets: readonly CallSecret[];
  /**
   * The revision of the server at which the secrets were read; 0 if a value is missing, so that the next call reads
   * them again.
   */
  readonly revision: number;
}

/** What a call to all servers of a workspace needs: who calls, and what the scopes of the token allow. */
export interface WorkspaceGrant extends Pick<CallGrant, "caller" | "workspace" | "tools" | "methods"> {
  /** The slugs of the servers that the caller may call; `undefined` for all. */
  readonly servers: readonly string[] | undefined;
}

/** The secrets of a server, and the keys of the values that are missing. */
interface FoundSecrets {
  readonly secrets: readonly CallSecret[];
  readonly missing: readonly string[];
}

/**
 * The values in a server's record when it was last read. The next call reads them together with the record, because it
 * will probably need them.
 */
interface KnownValues {
  readonly server: string;
  readonly values: readonly number[];
}

const maxKnownServers = 10_000;
// Each call reads about five records, which rarely change.
const keepDecrypted = 10_000;
// A value that is missing was replaced or deleted after the server's record was read. Then another value is missing the
// next time, if any.
const maxAttempts = 64;
const refusals: readonly SecretsErrorCode[] = ["NOT_ALLOWED", "SERVER_NOT_FOUND", "SECRET_UNUSABLE"];

/**
 * Reads what a call needs: the token, the server and the values of its secrets. Only the relay of the gateway uses this
 * class. `SecretsAdmin` cannot return a value.
 *
 * Each call reads its token, server and values from the store. So a revocation, a new value or a changed rule applies
 * to every call that begins after the change was acknowledged, on every process. Calls that begin at the same time
 * share one read of the store. A record is decrypted again only if its stored text or the keyring has changed.
 *
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const service = new SecretsAdmin({ store, keys, audit });
 * const { admin } = await service.initialize();
 * const caller = await service.authenticate(admin.token);
 * await service.createServer(caller, { slug: "github", url: "https://mcp.example.com/mcp" });
 * const member = await service.createToken(caller, { owner: "ci", role: "member" });
 * const reader = new SecretsReader({ store, keys });
 * console.log((await reader.forCall(member.token, "github")).server.url); // https://mcp.example.com/mcp
 * await reader.close();
 * await service.close();
 * await audit.close();
 */
export class SecretsReader {
  readonly #store: ServiceStore;
  readonly #lastUses: LastUses;
  readonly #onProblem: (problem: unknown) => void;
  readonly #known = new Map<string, KnownValues>();

  /**
   * Opens the service in a store.
   *
   * @throws KeywardError with the same codes as the constructor of `SecretsAdmin`.
   */
  constructor({ store, keys, replica, onProblem = () => {} }: SecretsReaderOptions) {
    this.#store = new ServiceStore({ store, keys, replica, keepDecrypted });
    this.#lastUses = new LastUses({ store: this.#store, onProblem });
    this.#onProblem = onProblem;
  }

  /**
   * Returns what a call to a server needs.
   *
   * @param slug the slug of the server, in the workspace of the token.
   * @param options.address the network address of the caller.
   * @throws SecretsError `TOKEN_REFUSED`; SecretsError `NOT_ALLOWED` for the token of an operator; KeywardError if the
   * store or the keys fail. A {@link RefusedCall} has one of three codes: `NOT_ALLOWED` for another role that cannot
   * call servers. `SERVER_NOT_FOUND` if the server does not exist, is disabled or is outside of the scope of the token.
   * `SECRET_UNUSABLE` if a value has expired, was set for another origin or is missing.
   */
  async forCall(
    token: string,
    slug: string,
    { address }: { readonly address?: string | undefined } = {},
  ): Promise<CallGrant> {
    const presented = presentedToken(token);
    const { workspace } = presented;
    let missing: readonly string[] = [];
    for (let attempt = 1; ; attempt++) {
      const known = this.#known.get(serverKey(workspace, slug));
      const batch = await this.#read(presented, slug, known);
      const { caller, token: record } = requireCaller(presented, batch, address);
      const refused = (error: unknown) => refusalOf(error, caller, slug, batch);
      const { server, found } = await this.#callable(caller, record, batch, slug, known).catch((error: unknown) => {
        throw refused(error);
      });
      this.#remember(serverKey(workspace, slug), server);
      if (found.missing.length === 0) {
        this.#lastUses.note(workspace, record.id);
        // Also within a minute after a use of a former value: a value that is in use must not look unused.
        this.#lastUses.note(workspace, server.id, Math.max(0, ...server.secrets.map(({ setAt }) => setAt)));
        const { id, url, kind, revision, relayHeaders } = server;
        const forwardHeaders = forwardedWith(server);
        return {
          caller,
          ...installationOf(workspace, batch),
          tools: record.tools,
          methods: record.methods,
          server: { id, slug, url, kind, revision, forwardHeaders, relayHeaders },
          secrets: found.secrets,
        };
      }
      if (attempt >= maxAttempts || found.missing.some((key) => missing.includes(key))) throw refused(unusable(slug));
      missing = found.missing;
    }
  }

  /**
   * Returns what a call to all servers of a workspace needs. Reads no value.
   *
   * @param options.address the network address of the caller.
   * @param options.isUse false to leave the time of the token's last use unchanged. Default: true.
   * @throws SecretsError `TOKEN_REFUSED`; `NOT_ALLOWED` for a role that cannot call servers; `KeywardError` if the
   * store or the keys fail.
   */
  async forWorkspace(
    token: string,
    { address, isUse = true }: { readonly address?: string | undefined; readonly isUse?: boolean } = {},
  ): Promise<WorkspaceGrant> {
    const presented = presentedToken(token);
    const batch = await this.#store.readJointly(presented.keys);
    const { caller, token: record } = requireCaller(presented, batch, address);
    if (!hasRight(caller.role, "servers.call")) throw notAllowed();
    if (isUse) this.#lastUses.note(presented.workspace, record.id);
    const { workspace } = installationOf(presented.workspace, batch);
    const { servers, tools, methods } = record;
    return { caller, workspace, servers, tools, methods };
  }

  /**
   * Returns the MCP servers that the caller may call, sorted by slug. If a record cannot be read, reports the problem
   * to `onProblem`, and leaves out its server.
   *
   * @param most the greatest number of servers.
   * @throws KeywardError if the store or the keys fail.
   */
  async serversOf(grant: WorkspaceGrant, most: number): Promise<readonly CallableServer[]> {
    return await callableServers(this.#store, grant, { most, onProblem: this.#onProblem });
  }

  /**
   * Reads the tokens and servers of calls in progress again, in one call to the store. Returns the calls that must end,
   * because their token was revoked, narrowed or has expired, or their server was disabled or deleted. If a record
   * cannot be read, reports the problem to `onProblem`, and also returns the calls that depend on this record. Call
   * this method once a second.
   *
   * @throws KeywardError if the store or the keys fail. Then nothing is known about the calls.
   */
  async stillAllowed<Call extends OpenCall>(calls: readonly Call[]): Promise<readonly EndedCall<Call>[]> {
    const ended = await endedCalls(this.#store, calls);
    for (const problem of new Set(ended.map((each) => each.problem))) {
      if (problem !== undefined) this.#onProblem(problem);
    }
    return ended;
  }

  /**
   * Returns the current secrets for each call in progress whose server has changed since its secrets were read. With
   * them, the gateway can search an answer for a value that was set during the call, even by another process. Call this
   * method together with {@link SecretsReader.stillAllowed}: both share one call to the store. A record that cannot be
   * read is reported to `onProblem`.
   *
   * @throws KeywardError if the store or the keys fail.
   */
  async newSecrets<Call extends SearchedCall>(calls: readonly Call[]): Promise<readonly NewSecrets<Call>[]> {
    if (calls.length === 0) return [];
    const byServer = Map.groupBy(calls, ({ caller, server }) =>
      serverKey(caller.workspace ?? installation, server.slug),
    );
    const batch = await this.#store.readJointly([...byServer.keys()]);
    const found: NewSecrets<Call>[] = [];
    for (const [key, ofServer] of byServer) {
      try {
        const server = batch.record(serverRecord, key)?.value;
        const changed = ofServer.filter(
          (call) => call.server.id === server?.id && call.searchedRevision < server.revision,
        );
        const [{ caller } = { caller: undefined }] = changed;
        if (server === undefined || caller === undefined) continue;
        const { secrets, missing } = await this.#secretsOf(caller.workspace ?? installation, server, undefined, batch);
        // A value that is missing was replaced meanwhile, so the server is read again the next time.
        for (const call of changed) found.push({ call, secrets, revision: missing.length === 0 ? server.revision : 0 });
      } catch (error) {
        // No call sends a value that cannot be used.
        if (!(error instanceof SecretsError && error.code === "SECRET_UNUSABLE")) this.#onProblem(error);
      }
    }
    return found;
  }

  /** Waits for the writes in the background, and stops the heartbeat of this process. Does not close the store. */
  async close(): Promise<void> {
    await this.#lastUses.settled();
    await this.#store.disconnect();
  }

  async #read(presented: PresentedToken, slug: string, known: KnownValues | undefined): Promise<ReadBatch> {
    const { workspace, keys } = presented;
    const values = (known?.values ?? []).map((value) => valueKey(workspace, known?.server ?? "", value));
    return await this.#store.readJointly([...keys, serverKey(workspace, slug), ...values]);
  }

  /** Returns the server that a token may call, with its secrets. */
  async #callable(
    caller: Caller,
    token: TokenRecord,
    batch: ReadBatch,
    slug: string,
    known: KnownValues | undefined,
  ): Promise<{ readonly server: ServerRecord; readonly found: FoundSecrets }> {
    const workspace = caller.workspace ?? installation;
    const record = batch.record(serverRecord, serverKey(workspace, slug))?.value;
    const server = requireCallable(caller, token, record, slug);
    return { server, found: await this.#secretsOf(workspace, server, known, batch) };
  }

  /** Returns the secrets of a server, and the keys of the values that are missing. */
  async #secretsOf(
    workspace: string,
    server: ServerRecord,
    known: KnownValues | undefined,
    batch: ReadBatch,
  ): Promise<FoundSecrets> {
    const { id, secrets, slug } = server;
    const now = Date.now();
    const origin = originOf(server.url);
    for (const secret of secrets) {
      if (secret.origin !== origin || (secret.expires !== undefined && secret.expires <= now)) throw unusable(slug);
    }
    const isRead = (value: number) => known?.server === id && known.values.includes(value);
    const unread = secrets.filter(({ value }) => !isRead(value)).map(({ value }) => valueKey(workspace, id, value));
    const further = unread.length === 0 ? batch : await this.#store.readJointly(unread);
    const missing: string[] = [];
    const found = secrets.flatMap(({ name, revision, rule, redacted, value }): CallSecret[] => {
      const key = valueKey(workspace, id, value);
      const record = (isRead(value) ? batch : further).record(valueRecord, key)?.value;
      if (record === undefined) {
        missing.push(key);
        return [];
      }
      // The record of the server could have been put back to an earlier origin.
      if (record.origin !== origin || record.name !== name) throw unusable(slug);
      return [{ name, revision, rule, redacted, value: new SecretValue(record.value) }];
    });
    return { secrets: found, missing };
  }

  #remember(key: string, { id, secrets }: ServerRecord): void {
    this.#known.delete(key);
    this.#known.set(key, { server: id, values: secrets.map(({ value }) => value) });
    if (this.#known.size <= maxKnownServers) return;
    const [oldest] = this.#known.keys();
    if (oldest !== undefined) this.#known.delete(oldest);
  }
}

/** Returns the workspace and the session key for a call, from the records of the workspace and of the installation. */
function installationOf(workspace: string, batch: ReadBatch): Pick<CallGrant, "workspace" | "sessionKey"> {
  const home = batch.record(workspaceRecord, workspaceKey(workspace))?.value;
  const service = batch.record(serviceRecord, serviceKey)?.value;
  // The check of the token has read both.
  if (home === undefined || service === undefined) throw notInitialized();
  return { workspace: { id: home.id, name: home.name }, sessionKey: new SessionKey(service.sessionKey) };
}

/**
 * Returns a {@link RefusedCall} with the caller, for the refusal of a call. Returns errors of the store, and errors for
 * an operator's token, unchanged.
 */
function refusalOf(error: unknown, caller: Caller, slug: string, batch: ReadBatch): unknown {
  const isRefusal = error instanceof SecretsError && refusals.includes(error.code);
  if (!isRefusal || caller.workspace === undefined) return error;
  // An unreadable record is not a refusal.
  const isServer = batch.record(serverRecord, serverKey(caller.workspace, slug)) !== undefined;
  const { workspace } = installationOf(caller.workspace, batch);
  return new RefusedCall(error, { caller, workspace, server: isServer ? { slug } : undefined });
}

/** Returns the record of a server that a token may call. */
function requireCallable(
  caller: Caller,
  token: TokenRecord,
  server: ServerRecord | undefined,
  slug: string,
): ServerRecord {
  if (!hasRight(caller.role, "servers.call")) throw notAllowed();
  const isInScope = token.servers === undefined || token.servers.includes(slug);
  if (isInScope && server !== undefined && !server.deleting && !server.disabled) return server;
  // The same error for all reasons, so that a caller learns nothing about servers outside the scope of the token.
  throw new SecretsError("SERVER_NOT_FOUND", "The token can call no such server", {
    hint: "The server does not exist, is disabled, or is outside of the scope of the token. Check the name of the server in the URL. If the name is right, ask an admin of the workspace.",
  });
}

/**
 * Returns the headers of the caller that the gateway forwards, without each header that a rule puts a secret's value
 * into: a caller must not be able to send another credential.
 */
function forwardedWith({ forwardHeaders, secrets }: ServerRecord): readonly string[] {
  return forwardHeaders.filter((name) => secrets.every(({ rule }) => !isSameHeader(headerOf(rule), name)));
}

/** Returns the error for a value that a call cannot use. A member must not learn the name of the secret. */
function unusable(slug: string): SecretsError {
  return new SecretsError("SECRET_UNUSABLE", `A secret of the server ${slug} cannot be used`, {
    hint: `Ask an admin of the workspace to find the reason with \`keyward secrets list ${slug}\`, and to set the secret again.`,
  });
}
