import { requireStillValid } from "../access/authentication.ts";
import type { Caller } from "../access/caller.ts";
import type { Change } from "../model.ts";
import { SecretsError, type SecretsErrorCode } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";

/** A change, with the checked caller that makes the change. */
export interface CallerChange extends Change {
  readonly caller: Caller;
}

/** The result of a change, and the revision of the server or workspace after the change, if there is one. */
export interface ChangeResult<Result> {
  readonly result: Result;
  readonly revision?: number;
}

/** The codes of errors after which a change may have been made in part: a record of a later step could not be changed. */
const mayHaveChanged: readonly SecretsErrorCode[] = [
  "SERVICE_BUSY",
  "RECORD_INVALID",
  "RECORD_MISSING",
  "RECORD_ROLLED_BACK",
];

/** Records each change before it is made, and its outcome afterwards. */
export class Changes {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Records the beginning of a change, makes the change, and records its outcome. If the outcome cannot be recorded,
   * the audit shows the outcome `unknown`.
   *
   * @param check called after the beginning was recorded, which may take seconds. Throws if the caller may no longer
   * make the change. Default: checks that the token of the caller is still valid.
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the beginning cannot be recorded; the errors of `check` and `make`.
   */
  async record<Result>(
    change: CallerChange,
    make: () => Promise<ChangeResult<Result>>,
    check: () => Promise<void> = () => requireStillValid(this.#context.store, change.caller),
  ): Promise<Result> {
    const { tokenId, owner, role, address } = change.caller;
    const begun = await this.#context.audit.begin({ ...change, caller: { tokenId, owner, role, address } });
    try {
      await check();
      const { result, revision } = await make();
      await begun.end("done", revision).catch((error: unknown) => this.#context.onProblem(error));
      return result;
    } catch (error) {
      const outcome = error instanceof SecretsError && !mayHaveChanged.includes(error.code) ? "refused" : "failed";
      await begun.end(outcome).catch((problem: unknown) => this.#context.onProblem(problem));
      throw error;
    }
  }
}
