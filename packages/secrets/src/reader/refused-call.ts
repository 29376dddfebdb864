import type { Caller } from "../access/caller.ts";
import { SecretsError } from "../secrets-error.ts";

/**
 * The error for a call that is refused although its token is valid. Contains the caller and the server, so that the
 * refusal can be recorded.
 */
export class RefusedCall extends SecretsError {
  /** Who made the call. */
  readonly caller: Caller;
  /** The workspace of the token. */
  readonly workspace: { readonly id: string; readonly name: string };
  /** The server that the call named; `undefined` if the workspace has no such server. */
  readonly server: { readonly slug: string } | undefined;

  constructor(
    { code, message, hint }: SecretsError,
    { caller, workspace, server }: Pick<RefusedCall, "caller" | "workspace" | "server">,
  ) {
    super(code, message, { hint });
    this.caller = caller;
    this.workspace = workspace;
    this.server = server;
  }
}
