import { type AdminClientOptions, ClientTransport } from "./client-transport.ts";
import {
  type CallExplanation,
  type CallOutcome,
  call,
  callPage,
  explanation,
  type RecordedCall,
} from "./schemas/call-schemas.ts";
import { type WhoAmI, whoAmI } from "./schemas/caller-schemas.ts";
import { type ChangeAction, changePage, type RecordedChange } from "./schemas/change-schemas.ts";
import { type KeyCensus, keyCensus, type Rotation, rotationState } from "./schemas/key-schemas.ts";
import {
  type DeletedSecrets,
  deletedSecrets,
  type Injection,
  injection,
  type NewSecret,
  type SecretChange,
  type SecretList,
  secretChange,
  secretList,
} from "./schemas/secret-schemas.ts";
import { type NewServer, type Server, type ServerChange, server, serverPage } from "./schemas/server-schemas.ts";
import {
  type IssuedToken,
  issuedToken,
  type NewToken,
  revokedTokens,
  type Token,
  token,
  tokenPage,
} from "./schemas/token-schemas.ts";
import {
  type CreatedWorkspace,
  createdWorkspace,
  type NewWorkspace,
  type Workspace,
  workspace,
  workspacePage,
} from "./schemas/workspace-schemas.ts";

export { AdminApiError, type AdminApiErrorDetails } from "./client-error.ts";
export type { AdminClientOptions } from "./client-transport.ts";
export type { CallExplanation, CallOutcome, RecordedCall } from "./schemas/call-schemas.ts";
export type { WhoAmI } from "./schemas/caller-schemas.ts";
export type { ChangeAction, RecordedChange } from "./schemas/change-schemas.ts";
export type { KeyCensus, Rotation } from "./schemas/key-schemas.ts";
export type {
  DeletedSecrets,
  Injection,
  NewSecret,
  Secret,
  SecretChange,
  SecretList,
} from "./schemas/secret-schemas.ts";
export type { NewServer, Server, ServerChange, ServerState } from "./schemas/server-schemas.ts";
export type { IssuedToken, NewToken, Token } from "./schemas/token-schemas.ts";
export type { CreatedWorkspace, NewWorkspace, Workspace } from "./schemas/workspace-schemas.ts";

/** Which part of a list to return. */
export interface ListPage {
  /** The `next` of the previous page. Default: the first page, which has the newest items. */
  readonly cursor?: string | undefined;
  /** The largest number of items, from 1 to 100. Default: 50. */
  readonly limit?: number | undefined;
}

/** A page of a list, newest items first. */
export interface ListedPage<Item> {
  readonly items: readonly Item[];
  /** The cursor of the next page. `null` on the last page. */
  readonly next: string | null;
  /** The slugs, ids or names of items on this page that cannot be read, because their records were damaged. */
  readonly unreadable: readonly string[];
}

/** The revision that a change expects. If the server or workspace has another revision, the change is refused. */
export interface RevisionCondition {
  /** The change is refused with `REVISION_CHANGED` if the server or workspace has another revision. Default: any. */
  readonly ifRevision?: number | undefined;
}

/** Which changes to list. Times are in RFC 3339. */
export interface ChangeListFilter {
  readonly owner?: string | undefined;
  readonly server?: string | undefined;
  readonly action?: ChangeAction | undefined;
  /** Only changes at or after this time. */
  readonly from?: string | undefined;
  /** Only changes before this time. */
  readonly until?: string | undefined;
}

/** Which calls to list. Calls are ordered by the time at which they ended. Times are in RFC 3339. */
export interface CallListFilter {
  readonly owner?: string | undefined;
  readonly server?: string | undefined;
  readonly tool?: string | undefined;
  /** The id of a token. */
  readonly token?: string | undefined;
  readonly outcome?: CallOutcome | undefined;
  /** Only calls that ended at or after this time. */
  readonly from?: string | undefined;
  /** Only calls that ended before this time. */
  readonly until?: string | undefined;
}

/**
 * A client of the admin API, with one method for each route. Every method throws an `AdminApiError` if the service
 * refuses the request or cannot be reached, or if the answer does not match the admin API. Times are in RFC 3339. The
 * client sends each request once and follows no redirect.
 *
 * @example
 * import { AdminApiError, AdminClient } from "@keyward/admin/client";
 *
 * const client = new AdminClient({ url: "http://localhost:8481", token: process.env["KEYWARD_TOKEN"] ?? "none" });
 * try {
 *   const { items } = await client.listServers({ limit: 10 });
 *   console.log(items.map(({ slug, url }) => `${slug} ${url}`));
 * } catch (error) {
 *   if (!(error instanceof AdminApiError)) throw error;
 *   console.error(error.code, error.message, error.hint);
 * }
 */
export class AdminClient {
  readonly #transport: ClientTransport;

  /** @throws AdminApiError `OPTION_INVALID` if an option is not valid. */
  constructor(options: AdminClientOptions) {
    this.#transport = new ClientTransport(options);
  }

  /** Returns the owner, role and workspace of the token that this client uses. */
  whoAmI(): Promise<WhoAmI> {
    return this.#transport.send({ method: "GET", path: ["whoami"] }, whoAmI);
  }

  /** Creates a workspace, and the token of its first admin. */
  createWorkspace(body: NewWorkspace): Promise<CreatedWorkspace> {
    return this.#transport.send({ method: "POST", path: ["workspaces"], body }, createdWorkspace);
  }

  /** Returns a page of the workspaces, newest first. */
  listWorkspaces({ cursor, limit }: ListPage = {}): Promise<ListedPage<Workspace>> {
    return this.#transport.send({ method: "GET", path: ["workspaces"], query: { cursor, limit } }, workspacePage);
  }

  /** Returns one workspace. */
  getWorkspace(name: string): Promise<Workspace> {
    return this.#transport.send({ method: "GET", path: ["workspaces", name] }, workspace);
  }

  /** Deletes a workspace, with its servers, secrets and tokens. */
  deleteWorkspace(name: string, { ifRevision }: RevisionCondition = {}): Promise<void> {
    return this.#transport.sendWithoutAnswer({ method: "DELETE", path: ["workspaces", name], ifRevision });
  }

  /** Creates a server. */
  createServer(body: NewServer): Promise<Server> {
    return this.#transport.send({ method: "POST", path: ["mcp-servers"], body }, server);
  }

  /** Returns a page of the servers, newest first. */
  listServers({ cursor, limit }: ListPage = {}): Promise<ListedPage<Server>> {
    return this.#transport.send({ method: "GET", path: ["mcp-servers"], query: { cursor, limit } }, serverPage);
  }

  /** Returns one server. */
  getServer(slug: string): Promise<Server> {
    return this.#transport.send({ method: "GET", path: ["mcp-servers", slug] }, server);
  }

  /** Changes a server. An absent field stays as it is. */
  updateServer(slug: string, body: ServerChange, { ifRevision }: RevisionCondition = {}): Promise<Server> {
    return this.#transport.send({ method: "PATCH", path: ["mcp-servers", slug], body, ifRevision }, server);
  }

  /** Deletes a server and its secrets. */
  deleteServer(slug: string, { ifRevision }: RevisionCondition = {}): Promise<void> {
    return this.#transport.sendWithoutAnswer({ method: "DELETE", path: ["mcp-servers", slug], ifRevision });
  }

  /** Creates a secret, or replaces its value. The next call uses the new value. */
  setSecret(slug: string, body: NewSecret, { ifRevision }: RevisionCondition = {}): Promise<SecretChange> {
    const path = ["mcp-servers", slug, "secrets"];
    return this.#transport.send({ method: "POST", path, body, ifRevision }, secretChange);
  }

  /** Returns all secrets of a server without their values, sorted by name. */
  listSecrets(slug: string): Promise<SecretList> {
    return this.#transport.send({ method: "GET", path: ["mcp-servers", slug, "secrets"] }, secretList);
  }

  /** Deletes a secret. Returns the server that the secret belonged to. */
  deleteSecret(slug: string, name: string, { ifRevision }: RevisionCondition = {}): Promise<Server> {
    const path = ["mcp-servers", slug, "secrets", name];
    return this.#transport.send({ method: "DELETE", path, ifRevision }, server);
  }

  /** Deletes all secrets of a server. */
  deleteAllSecrets(slug: string, { ifRevision }: RevisionCondition = {}): Promise<DeletedSecrets> {
    const path = ["mcp-servers", slug, "secrets"];
    return this.#transport.send({ method: "DELETE", path, ifRevision }, deletedSecrets);
  }

  /** Changes how the value of a secret enters the request to its server. */
  setInjection(
    slug: string,
    name: string,
    body: Injection,
    { ifRevision }: RevisionCondition = {},
  ): Promise<SecretChange> {
    const path = ["mcp-servers", slug, "secrets", name, "injection"];
    return this.#transport.send({ method: "PUT", path, body, ifRevision }, secretChange);
  }

  /** Returns how the value of a secret enters the request to its server. */
  getInjection(slug: string, name: string): Promise<Injection> {
    const path = ["mcp-servers", slug, "secrets", name, "injection"];
    return this.#transport.send({ method: "GET", path }, injection);
  }

  /** Creates a token, and returns its text. No other method returns the text of the token. */
  createToken(body: NewToken): Promise<IssuedToken> {
    return this.#transport.send({ method: "POST", path: ["tokens"], body }, issuedToken);
  }

  /** Returns a page of the tokens, newest first. */
  listTokens({
    cursor,
    limit,
    owner,
  }: ListPage & { readonly owner?: string | undefined } = {}): Promise<ListedPage<Token>> {
    return this.#transport.send({ method: "GET", path: ["tokens"], query: { cursor, limit, owner } }, tokenPage);
  }

  /** Revokes a token. */
  revokeToken(id: string): Promise<Token> {
    return this.#transport.send({ method: "DELETE", path: ["tokens", id] }, token);
  }

  /** Revokes every token of an owner that is not revoked. Returns the ids of the revoked tokens. */
  async revokeTokensOf(owner: string): Promise<readonly string[]> {
    const request = { method: "DELETE", path: ["tokens"], query: { owner } } as const;
    return (await this.#transport.send(request, revokedTokens)).revoked;
  }

  /** Replaces a token by a new one with the same owner, role and scopes. The old one stays valid for `overlapMs` ms. */
  rotateToken(id: string, { overlapMs }: { readonly overlapMs: number }): Promise<IssuedToken> {
    const path = ["tokens", id, "rotate"];
    return this.#transport.send({ method: "POST", path, body: { overlapMs } }, issuedToken);
  }

  /** Returns a page of the changes, newest first. */
  listChanges(
    { owner, server: slug, action, from, until }: ChangeListFilter = {},
    { cursor, limit }: ListPage = {},
  ): Promise<ListedPage<RecordedChange>> {
    const query = { owner, server: slug, action, from, until, cursor, limit };
    return this.#transport.send({ method: "GET", path: ["changes"], query }, changePage);
  }

  /** Returns a page of the calls. The call that ended last is first. */
  listCalls(
    { owner, server: slug, tool, token: tokenId, outcome, from, until }: CallListFilter = {},
    { cursor, limit }: ListPage = {},
  ): Promise<ListedPage<RecordedCall>> {
    const query = { owner, server: slug, tool, token: tokenId, outcome, from, until, cursor, limit };
    return this.#transport.send({ method: "GET", path: ["calls"], query }, callPage);
  }

  /** Returns the call with an id. The gateway sends the id of a call to its caller, with the answer. */
  getCall(id: string): Promise<RecordedCall> {
    return this.#transport.send({ method: "GET", path: ["calls", id] }, call);
  }

  /** Returns which secrets a call to a server would use, or why it would be refused. Does not return values. */
  explainCall(
    slug: string,
    {
      tokenId,
      tool,
      method,
    }: {
      readonly tokenId: string;
      /** The tool that would be called. For an MCP server. */
      readonly tool?: string | undefined;
      /** The HTTP method of the call. For a server of the kind `http`. */
      readonly method?: NonNullable<NewToken["methods"]>[number] | undefined;
    },
  ): Promise<CallExplanation> {
    const path = ["mcp-servers", slug, "explanation"];
    return this.#transport.send({ method: "GET", path, query: { token: tokenId, tool, method } }, explanation);
  }

  /** Returns the number of records under each encryption key. */
  census(): Promise<KeyCensus> {
    return this.#transport.send({ method: "GET", path: ["keys", "census"] }, keyCensus);
  }

  /** Returns the state of the key rotation that is in progress, or of the last one. `null` if there was none. */
  async rotation(): Promise<Rotation | null> {
    return (await this.#transport.send({ method: "GET", path: ["keys", "rotation"] }, rotationState)).rotation;
  }
}
