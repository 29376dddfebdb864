/**
 * What the holder of a token may do.
 *
 * - `member`: calls servers through the gateway.
 * - `auditor`: reads who called what, and the changes, of one workspace.
 * - `admin`: manages the servers, secrets and tokens of one workspace.
 * - `operator`: manages the installation: workspaces, keys and operators' tokens. An operator cannot use or change
 *   secrets.
 */
export type Role = "member" | "auditor" | "admin" | "operator";

/** The kind of a server: an MCP server, or any other HTTP API. */
export type ServerKind = "mcp" | "http";

/**
 * How a secret's value enters the request to its server.
 *
 * - `header`: the value is the whole value of the header `header`.
 * - `bearer`: the header `Authorization: Bearer <value>`.
 * - `basic`: the header `Authorization: Basic …`, for a value of the form `user:password`.
 * - `template`: the header `header` with the text `template`, in which `{value}` is replaced by the value.
 */
export type InjectionRule =
  | {
      /** The kind of the rule. */
      readonly kind: "header";
      /** The name of the header. */
      readonly header: string;
    }
  | { readonly kind: "bearer" }
  | { readonly kind: "basic" }
  | { readonly kind: "template"; readonly header: string; readonly template: string };

/** Which part of a list to return. */
export interface PageRequest {
  /** The `next` of the previous page. Default: the first page, which has the newest items. */
  readonly cursor?: string | undefined;
  /** The largest number of items, from 1 to 100. A page may have fewer items, even if it is not the last. Default: 50. */
  readonly limit?: number | undefined;
}

/** A page of a list, newest items first. */
export interface Page<Item> {
  /** The items of this page. */
  readonly items: readonly Item[];
  /** The cursor of the next page. `undefined` on the last page. */
  readonly next: string | undefined;
  /**
   * Names the items of this page that cannot be read, because someone has damaged their records or put back older ones:
   * slugs of servers, ids of tokens and of audit entries, names of workspaces. If only the outcome of a change cannot
   * be read, `items` also contains the change, with the outcome `unknown`. Default: none.
   */
  readonly unreadable?: readonly string[] | undefined;
}

/** A condition of a change. */
export interface ChangeCondition {
  /** The change is refused with `REVISION_CHANGED` if the server or workspace has another revision. Default: any. */
  readonly ifRevision?: number | undefined;
}

/** A workspace, as operators see it. */
export interface WorkspaceInfo {
  /** The id of the workspace, which is a part of its tokens. */
  readonly id: string;
  /** The name of the workspace, which no other workspace has. */
  readonly name: string;
  /** A number that grows with each change of the workspace. */
  readonly revision: number;
  /** When the workspace was created, in milliseconds since the epoch. */
  readonly created: number;
  /** For how many days the calls and changes of the workspace are kept. */
  readonly retentionDays: number;
  /** True while the workspace is being deleted. */
  readonly deleting: boolean;
}

/** A server, without its secrets. */
export interface ServerInfo {
  /** The id of the server. If a server is deleted and another one gets its slug, the new server has another id. */
  readonly id: string;
  /** The name of the server, which is unique in its workspace. */
  readonly slug: string;
  /** The URL of the server. */
  readonly url: string;
  /** Whether the server is an MCP server or another HTTP API. */
  readonly kind: ServerKind;
  /** The headers of callers that the gateway forwards to the server, besides those that it always forwards. In lower case. */
  readonly forwardHeaders: readonly string[];
  /** The headers of the server that the gateway relays to callers, besides those that it always relays. In lower case. */
  readonly relayHeaders: readonly string[];
  /** True if calls to the server are refused. */
  readonly disabled: boolean;
  /** A number that grows with each change of the server or of one of its secrets. */
  readonly revision: number;
  /** When the server was created, in milliseconds since the epoch. */
  readonly created: number;
  /** The number of secrets of the server. */
  readonly secretCount: number;
  /** True while the server is being deleted. */
  readonly deleting: boolean;
}

/** What is known about a secret, without its value. */
export interface SecretInfo {
  /** The name of the secret. */
  readonly name: string;
  /** How the value enters the request. */
  readonly rule: InjectionRule;
  /** The revision of the server at which the value was set. */
  readonly revision: number;
  /** When the value was set, in milliseconds since the epoch. */
  readonly setAt: number;
  /** The owner of the token with which the value was set. */
  readonly setBy: string;
  /** When the value expires, in milliseconds since the epoch. `undefined` for never. */
  readonly expires: number | undefined;
  /** When a call last used the value, to about a minute. `undefined` for never. */
  readonly lastUsed: number | undefined;
  /** True if the value has fewer than 16 bytes, so that it could be guessed. */
  readonly weak: boolean;
  /** True if the gateway searches answers of the server for the value. Chosen when the value was set. */
  readonly redacted: boolean;
  /** The origin (scheme, host and port) that the value is bound to: the one that its server had when the value was set. */
  readonly origin: string;
  /**
   * Why calls cannot use the value: the URL of the server now has another origin than when the value was set, or the
   * value has expired. `undefined` if calls can use the value.
   */
  readonly unusable: "origin-changed" | "expired" | undefined;
}

/** A new value of a secret, as `SecretsAdmin.setSecret` stores it. */
export interface NewSecret {
  /** 1 to 128 letters, digits, `_`, `-` and `.`, beginning with a letter or `_`. */
  readonly name: string;
  /** 8 bytes to 8 KiB of UTF-8, without CR, LF and NUL. */
  readonly value: string;
  /**
   * How the value enters a request. Default: the current rule of the secret. The default for a new secret is the rule
   * `header` with the name of the secret as the header.
   */
  readonly rule?: InjectionRule | undefined;
  /** When the value expires, in milliseconds since the epoch. Default: never. */
  readonly expires?: number | undefined;
  /** Whether the gateway searches answers of the server for the value. Default: true. */
  readonly redacted?: boolean | undefined;
  /**
   * The origin that the server must have, such as `https://mcp.example.com`. If the server has another origin, the
   * value is not stored, and the call is refused with `ORIGIN_CHANGED`. Default: any origin.
   */
  readonly expectedOrigin?: string | undefined;
}

/** The outcome of `SecretsAdmin.setSecret`. */
export interface SecretChange {
  /** The secret after the change. */
  readonly secret: SecretInfo;
  /** The revision of the server after the change. */
  readonly revision: number;
  /** False if the secret had a value before. */
  readonly created: boolean;
  /** Warnings for the admin, as sentences, such as that some servers drop a header whose name has an underscore. */
  readonly warnings: readonly string[];
}

/** A token, without its text. */
export interface TokenInfo {
  /** The id of the token, which is a part of its text and not secret. */
  readonly id: string;
  /** The label of the token. */
  readonly owner: string;
  /** What the holder of the token may do. */
  readonly role: Role;
  /** The slugs of the servers that the token may call. `undefined` for all servers of the workspace. */
  readonly servers: readonly string[] | undefined;
  /** The tools that the token may call. `undefined` for all. With tools and without `methods`: no server of the kind `http`. */
  readonly tools: readonly string[] | undefined;
  /** The HTTP methods that the token may use. `undefined` for all. */
  readonly methods: readonly string[] | undefined;
  /** When the token was created, in milliseconds since the epoch. */
  readonly created: number;
  /** The owner of the token with which this token was created. */
  readonly createdBy: string;
  /** When the token expires, in milliseconds since the epoch. `undefined` for never. */
  readonly expires: number | undefined;
  /** When the token was revoked, in milliseconds since the epoch. `undefined` if it was not revoked. */
  readonly revoked: number | undefined;
  /** When the token was last used, to about a minute. `undefined` for never. */
  readonly lastUsed: number | undefined;
}

/** The fields of a new token, for `SecretsAdmin.createToken`. */
export interface NewToken {
  /** A label for the audit, such as the name of a person or a program: 1 to 100 printable characters. */
  readonly owner: string;
  /** What the holder of the token may do. */
  readonly role: Role;
  /** The slugs of the servers that a member may call, at most 100. Default: all servers of the workspace. */
  readonly servers?: readonly string[] | undefined;
  /**
   * The tools that a member may call, at most 100. Default: all. With tools and without `methods`, a member calls no server
   * of the kind `http`, which has no tools.
   */
  readonly tools?: readonly string[] | undefined;
  /** The HTTP methods that a member may use. Default: all. */
  readonly methods?: readonly string[] | undefined;
  /** When the token expires, in milliseconds since the epoch. Default: never. */
  readonly expires?: number | undefined;
}

/** A new token. Its text is returned once and cannot be read again. */
export interface IssuedToken {
  /** The text of the token, which its holder keeps secret. */
  readonly token: string;
  /** The token without its text. */
  readonly info: TokenInfo;
}

/** The identity and the role of a caller, as `SecretsAdmin.whoAmI` returns them. */
export interface CallerInfo {
  /** The id of the caller's token. `local` for the holder of the keyring on the machine. */
  readonly tokenId: string;
  /** The label of the caller's token. */
  readonly owner: string;
  /** What the caller may do. */
  readonly role: Role;
  /** The id of the caller's workspace. `undefined` for an operator. */
  readonly workspace: string | undefined;
  /** When the caller's token expires, in milliseconds since the epoch. `undefined` for never. */
  readonly expires: number | undefined;
}

/** The kinds of changes that the audit records. */
export type ChangeAction =
  | "service.initialize"
  | "audit.begin"
  | "workspace.create"
  | "workspace.delete"
  | "server.create"
  | "server.update"
  | "server.delete"
  | "secret.set"
  | "secret.delete"
  | "secret.inject"
  | "token.create"
  | "token.revoke"
  | "token.rotate"
  | "token.recover";

/** Who made a change or a call. */
export interface ChangeCaller {
  /** The id of the caller's token. `local` for the holder of the keyring on the machine. */
  readonly tokenId: string;
  /** The label of the caller's token. */
  readonly owner: string;
  /** The role of the caller. */
  readonly role: Role;
  /** The network address of the caller. `undefined` on the machine itself. */
  readonly address: string | undefined;
}

/** A change that the audit records. Contains names, and never a value or the text of a token. */
export interface Change {
  /** The kind of the change. */
  readonly action: ChangeAction;
  /** The id of the workspace. `undefined` for a change of the installation. */
  readonly workspace: string | undefined;
  /** Who made the change. */
  readonly caller: ChangeCaller;
  /** The slug of the server, if the change is about a server. `*` if the workspace has no such server. */
  readonly server?: string | undefined;
  /**
   * The name of the secret, the id of the token or the name of the workspace that the change is about. `*` if there is
   * no secret, token or workspace with this name.
   */
  readonly subject?: string | undefined;
  /** What changed, in words. Never contains a secret's value. */
  readonly detail?: string | undefined;
}

/**
 * How a change ended.
 *
 * - `done`: the change was made.
 * - `refused`: nothing was changed.
 * - `failed`: an error occurred, so the change may have been made completely, in part or not at all.
 * - `unknown`: the outcome was not recorded, or its entry cannot be read. The change may have been made or not.
 */
export type ChangeOutcome = "done" | "refused" | "failed" | "unknown";

/** A recorded change, as `changes` lists it. */
export interface RecordedChange extends Change {
  /** The id of the change's entry in the audit: the id of its chain and its number in the chain. */
  readonly id: string;
  /** When the change began, in milliseconds since the epoch. */
  readonly at: number;
  /** How the change ended. */
  readonly outcome: ChangeOutcome;
  /** The revision of the server or workspace after the change. `undefined` if none was recorded. */
  readonly revision: number | undefined;
}

/** Which changes to list. */
export interface ChangeFilter {
  /** Only changes by callers with this owner. */
  readonly owner?: string | undefined;
  /** Only changes of the server with this slug. */
  readonly server?: string | undefined;
  /** Only changes of this kind. */
  readonly action?: ChangeAction | undefined;
  /** Only changes at or after this time, in milliseconds since the epoch. */
  readonly from?: number | undefined;
  /** Only changes before this time, in milliseconds since the epoch. */
  readonly until?: number | undefined;
}

/**
 * A call through the gateway, as the audit records it after its answer. Contains names and numbers, and never a value, an
 * argument, a body or a query.
 */
export interface Call {
  /** The id of the call, which the caller got with the answer. The gateway makes it with `newCallId()`. */
  readonly callId: string;
  /** When the call began, in milliseconds since the epoch. */
  readonly at: number;
  /** The id of the workspace. */
  readonly workspace: string;
  /** Who made the call. */
  readonly caller: ChangeCaller;
  /**
   * The slug of the server. `*` if the workspace has no such server. If the text is not a slug, the audit records `*`.
   */
  readonly server: string;
  /** The HTTP method. If the text is not 1 to 16 capital letters, the audit records `*`. */
  readonly method: string;
  /**
   * The path of the request, below the URL of the server. The audit records `*` instead of each segment that may be an
   * id, a name or a token.
   */
  readonly path: string;
  /**
   * The method of MCP, such as `tools/call`. `undefined` if the call was no MCP request. If the text contains a token,
   * the audit records `*`.
   */
  readonly mcpMethod?: string | undefined;
  /**
   * The name of the tool that was called. `undefined` if no tool was called. If the text contains a token, the audit
   * records `*`.
   */
  readonly tool?: string | undefined;
  /** The HTTP status that the caller got. `undefined` if the caller disconnected before the answer. */
  readonly status: number | undefined;
  /** Why the gateway refused or ended the call, such as `TOKEN_REFUSED`. `undefined` if it did neither. */
  readonly reason?: string | undefined;
  /** How long the call took, in milliseconds. */
  readonly durationMs: number;
  /** The number of bytes of the body of the request. */
  readonly requestBytes: number;
  /** The number of bytes of the body of the answer. */
  readonly answerBytes: number;
  /** The name and the revision of each secret that was put into the request. */
  readonly secrets: readonly CalledSecret[];
  /** How often a value was found in the answer, and removed. */
  readonly redactions: number;
}

/** A secret that was put into the request of a call. */
export interface CalledSecret {
  /** The name of the secret. */
  readonly name: string;
  /** The revision of the server at which the value was set. */
  readonly revision: number;
}

/**
 * How a call ended.
 *
 * - `answered`: the caller got the answer of the server, with a status below 400.
 * - `failed`: the caller got the answer of the server, with a status of 400 or above.
 * - `refused`: the gateway refused or ended the call, for the `reason` of the call.
 * - `left`: the caller disconnected before the answer.
 */
export type CallOutcome = "answered" | "failed" | "refused" | "left";

/** A recorded call, as `calls` lists it. */
export interface RecordedCall extends Call {
  /** How the call ended. */
  readonly outcome: CallOutcome;
}

/** Which calls to list. Calls are ordered by the time at which they ended. */
export interface CallFilter {
  /** Only calls by callers with this owner. */
  readonly owner?: string | undefined;
  /** Only calls to the server with this slug. */
  readonly server?: string | undefined;
  /** Only calls of this tool. */
  readonly tool?: string | undefined;
  /** Only calls with the token that has this id. */
  readonly token?: string | undefined;
  /** Only calls with this outcome. */
  readonly outcome?: CallOutcome | undefined;
  /** Only calls that ended at or after this time, in milliseconds since the epoch. */
  readonly from?: number | undefined;
  /** Only calls that ended before this time, in milliseconds since the epoch. */
  readonly until?: number | undefined;
}

/** The call that `SecretsAdmin.explainCall` explains and does not make. */
export interface ExplainedCall {
  /** The slug of the server. */
  readonly server: string;
  /** The id of the token with which the call would be made. */
  readonly tokenId: string;
  /** The tool of an MCP server that would be called. Default: no tool. */
  readonly tool?: string | undefined;
  /**
   * The HTTP method of a call to a server of the kind `http`. Default: the scope of methods is not checked. For an MCP
   * server, the method is always `POST`.
   */
  readonly method?: string | undefined;
}

/**
 * Why a call would be refused.
 *
 * - `TOKEN_REVOKED`, `TOKEN_EXPIRED`: the token is not valid.
 * - `ROLE_NOT_ALLOWED`: a token with this role cannot call servers.
 * - `SERVER_OUT_OF_SCOPE`, `TOOL_OUT_OF_SCOPE`, `METHOD_OUT_OF_SCOPE`: the token is limited to other servers, tools or
 *   HTTP methods. `TOOL_OUT_OF_SCOPE` for a server of the kind `http`: the token has tools, but no methods.
 * - `SERVER_DISABLED`: an admin has disabled the server.
 * - `SECRET_EXPIRED`: the value of a secret has expired.
 * - `SECRET_ORIGIN_CHANGED`: a value was set for another origin than the URL of the server has now.
 */
export type CallRefusal =
  | "TOKEN_REVOKED"
  | "TOKEN_EXPIRED"
  | "ROLE_NOT_ALLOWED"
  | "SERVER_OUT_OF_SCOPE"
  | "TOOL_OUT_OF_SCOPE"
  | "METHOD_OUT_OF_SCOPE"
  | "SERVER_DISABLED"
  | "SECRET_EXPIRED"
  | "SECRET_ORIGIN_CHANGED";

/** A secret that a call would use, without its value. */
export interface ExplainedSecret {
  /** The name of the secret. */
  readonly name: string;
  /** The revision of the server at which the value was set. */
  readonly revision: number;
  /** How the value would enter the request. */
  readonly rule: InjectionRule;
  /** The name of the header that the value would enter. */
  readonly header: string;
  /** Whether the answer would be searched for the value. */
  readonly redacted: boolean;
  /** Why the call could not use the value. `undefined` if it could. */
  readonly unusable: SecretInfo["unusable"];
}

/** The explanation of a call: its server, its secrets, and the reasons for which it would be refused. */
export interface CallExplanation {
  /** The token with which the call would be made. */
  readonly token: { readonly id: string; readonly owner: string; readonly role: Role };
  /** Where the call would go. */
  readonly server: {
    /** The slug of the server. */
    readonly slug: string;
    /** The kind of the server. */
    readonly kind: ServerKind;
    /** The URL of the server. */
    readonly url: string;
    /** The scheme, host and port of the URL. */
    readonly origin: string;
    /** The host of the URL. The certificate of the server and the header `Host` must have this name. */
    readonly host: string;
    /** The revision of the server. */
    readonly revision: number;
  };
  /** The secrets that the call would use, sorted by name. */
  readonly secrets: readonly ExplainedSecret[];
  /** Why the call would be refused. Empty if the gateway would make the call. */
  readonly refusals: readonly CallRefusal[];
}
