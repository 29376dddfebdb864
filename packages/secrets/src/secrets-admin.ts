import type { KeyProvider, Keyring, RotationStatus, WrappableStore } from "@keyward/core";
import type { Caller } from "./access/caller.ts";
import type { AuditLog } from "./audit/audit-log.ts";
import type {
  CallerInfo,
  ChangeCondition,
  ChangeFilter,
  InjectionRule,
  IssuedToken,
  NewSecret,
  NewToken,
  Page,
  PageRequest,
  RecordedChange,
  SecretChange,
  SecretInfo,
  ServerInfo,
  ServerKind,
  TokenInfo,
  WorkspaceInfo,
} from "./model.ts";

/** The options of {@link openSecretsAdmin}. */
export interface SecretsAdminOptions {
  /** An atomic store, which is closed by whoever opened it. */
  readonly store: WrappableStore;
  readonly keys: Keyring | KeyProvider;
  readonly audit: AuditLog;
  /** Registers this process as a replica of the store, as the option of `EncryptedStore`. Default: false. */
  readonly replica?: boolean | undefined;
}

/** What the operator reads about the keys: never a key. */
export interface KeyCensus {
  /** The id of the primary key. */
  readonly primary: string;
  /** The number of records under each key, by the id of the key. */
  readonly records: Readonly<Record<string, number>>;
  /** The number of records that cannot be read, or are not encrypted. */
  readonly unreadable: number;
}

/** The methods of the secrets service. A class in `secrets-admin.ts` implements it. Every method checks the caller's right. */
export interface SecretsAdminMethods {
  ready(): Promise<void>;
  authenticate(token: string, options?: { readonly address?: string }): Promise<Caller>;
  whoAmI(caller: Caller): CallerInfo;

  createWorkspace(
    caller: Caller,
    workspace: { readonly name: string; readonly adminOwner: string },
  ): Promise<{ readonly workspace: WorkspaceInfo; readonly admin: IssuedToken }>;
  listWorkspaces(caller: Caller, page?: PageRequest): Promise<Page<WorkspaceInfo>>;
  getWorkspace(caller: Caller, name: string): Promise<WorkspaceInfo>;
  deleteWorkspace(caller: Caller, name: string, condition?: ChangeCondition): Promise<void>;

  createServer(
    caller: Caller,
    server: { readonly slug: string; readonly url: string; readonly kind?: ServerKind | undefined },
  ): Promise<ServerInfo>;
  listServers(caller: Caller, page?: PageRequest): Promise<Page<ServerInfo>>;
  getServer(caller: Caller, slug: string): Promise<ServerInfo>;
  updateServer(
    caller: Caller,
    slug: string,
    change: {
      readonly url?: string | undefined;
      readonly kind?: ServerKind | undefined;
      readonly disabled?: boolean | undefined;
    },
    condition?: ChangeCondition,
  ): Promise<ServerInfo>;
  deleteServer(caller: Caller, slug: string, condition?: ChangeCondition): Promise<void>;

  /** `revision` of the result's secret is the revision of the server after the change. */
  setSecret(caller: Caller, slug: string, secret: NewSecret, condition?: ChangeCondition): Promise<SecretChange>;
  /** All secrets of a server, sorted by name: at most 100. */
  listSecrets(
    caller: Caller,
    slug: string,
  ): Promise<{ readonly server: ServerInfo; readonly secrets: readonly SecretInfo[] }>;
  deleteSecret(caller: Caller, slug: string, name: string, condition?: ChangeCondition): Promise<ServerInfo>;
  /** Returns the names of the deleted secrets. */
  deleteAllSecrets(
    caller: Caller,
    slug: string,
    condition?: ChangeCondition,
  ): Promise<{ readonly server: ServerInfo; readonly names: readonly string[] }>;
  setInjection(
    caller: Caller,
    slug: string,
    name: string,
    rule: InjectionRule,
    condition?: ChangeCondition,
  ): Promise<SecretChange>;

  createToken(caller: Caller, token: NewToken): Promise<IssuedToken>;
  listTokens(caller: Caller, page?: PageRequest & { readonly owner?: string | undefined }): Promise<Page<TokenInfo>>;
  revokeToken(caller: Caller, id: string): Promise<TokenInfo>;
  /** Revokes every token of an owner that is not revoked. Returns the ids of the revoked tokens. */
  revokeTokensOf(caller: Caller, owner: string): Promise<readonly string[]>;
  /** Creates a token with the owner, role and scopes of a token, and lets the former one expire after `overlapMs`. */
  rotateToken(caller: Caller, id: string, options: { readonly overlapMs: number }): Promise<IssuedToken>;

  listChanges(caller: Caller, filter?: ChangeFilter, page?: PageRequest): Promise<Page<RecordedChange>>;
  census(caller: Caller): Promise<KeyCensus>;
  /** The rotation of the keys that is in progress, or the last one. `undefined` if the store has no record of one. */
  rotation?(caller: Caller): Promise<RotationStatus | undefined>;
}
