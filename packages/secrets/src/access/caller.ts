import type { Role } from "../model.ts";

/** The fields of a {@link Caller}. */
export interface CallerFields {
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
  /** The network address of the caller, for the audit. `undefined` on the machine itself. */
  readonly address: string | undefined;
}

let make: (fields: CallerFields) => Caller;

/**
 * The holder of a token that was checked. Only `SecretsAdmin.authenticate` and
 * `SecretsAdmin.localOperator` make a caller.
 */
export class Caller implements CallerFields {
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
  /** The network address of the caller, for the audit. `undefined` on the machine itself. */
  readonly address: string | undefined;

  static {
    make = (fields) => new Caller(fields);
  }

  private constructor({ tokenId, owner, role, workspace, expires, address }: CallerFields) {
    this.tokenId = tokenId;
    this.owner = owner;
    this.role = role;
    this.workspace = workspace;
    this.expires = expires;
    this.address = address;
  }
}

/** The token id and the owner of the operator on the machine, who needs no token. */
export const local = "local";

/** Returns whether a caller is the operator on the machine, who needs no token. */
export function isLocal({ tokenId }: Caller): boolean {
  return tokenId === local;
}

/** Makes a caller whose token was checked. Not public. */
export function checkedCaller(fields: CallerFields): Caller {
  return make(fields);
}
