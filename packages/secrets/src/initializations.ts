import type { Caller } from "./access/caller.ts";
import { keeperOf } from "./access/keepers.ts";
import type { Tokens } from "./access/tokens.ts";
import type { Changes } from "./audit/changes.ts";
import {
  alreadyInitialized,
  claimInitialization,
  finishInitialization,
  giveUpInitialization,
  type InitializationClaim,
  requireClaim,
} from "./installation.ts";
import { requireNotLost } from "./lost-installation.ts";
import type { IssuedToken, WorkspaceInfo } from "./model.ts";
import { installation } from "./records/record-keys.ts";
import type { ChangeParts } from "./revocations.ts";
import { SecretsError } from "./secrets-error.ts";
import type { ServiceContext } from "./store/service-context.ts";
import type { Workspaces } from "./workspaces/workspaces.ts";

/** What `SecretsAdmin.initialize` returns: the first tokens, each of which is shown once. */
export interface Initialization {
  /** The token of the operator, which expires after 24 hours. */
  readonly operator: IssuedToken;
  /** The first workspace. */
  readonly workspace: WorkspaceInfo;
  /** The token of the workspace's admin. */
  readonly admin: IssuedToken;
}

const firstOperatorMs = 24 * 3_600_000;

/** Initializes the service in an empty store: creates the first operator, the first workspace and its admin. */
export class Initializations {
  readonly #context: ServiceContext;
  readonly #changes: Changes;
  readonly #tokens: Tokens;
  readonly #workspaces: Workspaces;

  constructor(context: ServiceContext, { changes, tokens, workspaces }: ChangeParts) {
    this.#context = context;
    this.#changes = changes;
    this.#tokens = tokens;
    this.#workspaces = workspaces;
  }

  /**
   * Creates the first tokens, and passes them to `deliver`. Then marks the service as initialized, so that the tokens
   * become valid.
   *
   * @param name the name of the first workspace.
   * @throws SecretsError `ALREADY_INITIALIZED`, `RECORD_MISSING`; KeywardError `STORE_NOT_SCANNABLE`; the errors of
   * `deliver`.
   */
  async run(
    caller: Caller,
    name: string,
    deliver: (initialization: Initialization) => Promise<void>,
  ): Promise<Initialization> {
    const { store } = this.#context;
    if ((await requireNotLost(store, this.#workspaces)) === "initialized") throw alreadyInitialized();
    return await this.#changes.record(
      { action: "service.initialize", workspace: undefined, caller, subject: name },
      async () => {
        const claim = await claimInitialization(store);
        let first: Initialization | undefined;
        try {
          first = await this.#createFirst(name, caller, claim);
          await requireClaim(store, claim);
          await deliver(first);
          await finishInitialization(store, claim, keeperOf(first.operator.info));
          return { result: first };
        } catch (error) {
          throw await this.#endInitialization(claim, first?.workspace.id, error);
        }
      },
    );
  }

  async #createFirst(workspace: string, caller: Caller, claim: InitializationClaim): Promise<Initialization> {
    // An initialization that was not finished has left its workspace. Its operator's token is refused, and expires.
    await this.#workspaces.removeUnfinished(claim.number);
    const expires = Date.now() + firstOperatorMs;
    const first = { owner: "first operator", role: "operator", expires } as const;
    const operator = await this.#tokens.createFirst(installation, first, caller.owner);
    const admin = { owner: "first admin", role: "admin" } as const;
    const created = await this.#workspaces.create(workspace, admin, caller, claim.number);
    return { operator, ...created };
  }

  /**
   * Gives up an initialization that failed, and returns the error to throw. If another process has taken over, deletes
   * the workspace of this process, and returns the error `ALREADY_INITIALIZED`: the failure may follow from the changes
   * of that other process.
   */
  async #endInitialization(
    claim: InitializationClaim,
    workspace: string | undefined,
    error: unknown,
  ): Promise<unknown> {
    const { store, onProblem } = this.#context;
    try {
      await giveUpInitialization(store, claim);
      return error;
    } catch (problem) {
      if (!(problem instanceof SecretsError && problem.code === "ALREADY_INITIALIZED")) {
        onProblem(problem);
        return error;
      }
      // The other process may have deleted this workspace.
      if (workspace !== undefined) await this.#workspaces.discard(workspace).catch(onProblem);
      return problem;
    }
  }
}
