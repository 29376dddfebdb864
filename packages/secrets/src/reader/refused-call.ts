import type { Caller } from "../access/caller.ts";
import { SecretsError } from "../secrets-error.ts";

/** A call that is refused although the token is valid, so that the refusal can be recorded. */
export class RefusedCall extends SecretsError {
  /** Who made the call. */
  readonly caller: Caller;
  /** The workspace of the token. */
  readonly workspace: { readonly id: string; readonly name: string };

  constructor({ code, message, hint }: SecretsError, { caller, workspace }: Pick<RefusedCall, "caller" | "workspace">) {
    super(code, message, { hint });
    this.caller = caller;
    this.workspace = workspace;
  }
}
