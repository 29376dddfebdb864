import { requireStillValid } from "./access/authentication.ts";
import type { Caller } from "./access/caller.ts";
import type { Tokens } from "./access/tokens.ts";
import type { Changes } from "./audit/changes.ts";
import { refuseTokensBefore } from "./installation.ts";
import { installation } from "./records/record-keys.ts";
import type { ServiceContext } from "./store/service-context.ts";
import type { Workspaces } from "./workspaces/workspaces.ts";

/** The parts of the service that create and revoke tokens, and record each change. */
export interface ChangeParts {
  readonly changes: Changes;
  readonly tokens: Tokens;
  readonly workspaces: Workspaces;
}

/** Revokes many tokens at once. Each revocation is recorded. */
export class Revocations {
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
   * Revokes every token, of all workspaces and of operators, that was created before the time `before`. Returns the
   * number of tokens whose records are now marked as revoked.
   *
   * @throws the errors of `refuseTokensBefore`, such as SecretsError `CLOCK_JUMPED`.
   */
  async createdBefore(
    caller: Caller,
    before: number,
    { clockWasAhead }: { readonly clockWasAhead: boolean },
  ): Promise<number> {
    const detail = `created before ${new Date(before).toISOString()}`;
    const change = { action: "token.revoke", caller, detail } as const;
    const failures: unknown[] = [];
    let revoked = 0;
    const revokeIn = async (workspace: string | undefined) => {
      const result = await this.#changes.record({ ...change, workspace }, async () => {
        // This is the first step, because it refuses even tokens that no list names, or whose records cannot be read.
        if (workspace === undefined) {
          await refuseTokensBefore(this.#context.store, before, { clockWasAhead });
        }
        return { result: await this.#tokens.revokeCreatedBefore(workspace ?? installation, before) };
      });
      revoked += result.revoked;
      failures.push(...result.failures);
    };
    await revokeIn(undefined);
    const pages = this.#workspaces.list().pages({ onUnreadable: (problem) => failures.push(problem) });
    for await (const page of pages) for (const { entry } of page) await revokeIn(entry.id);
    for (const failure of failures) this.#context.onProblem(failure);
    return revoked;
  }

  /**
   * Revokes every token of an owner in a workspace, and returns the ids of the tokens that were revoked.
   *
   * @throws the error of the first token that could not be revoked. The other tokens of the owner are revoked before.
   */
  async ofOwner(caller: Caller, workspace: string, owner: string): Promise<readonly string[]> {
    const revoked: string[] = [];
    const failures: unknown[] = [];
    await requireStillValid(this.#context.store, caller);
    const onUnreadable = (problem: unknown) => failures.push(problem);
    // Again until a pass finds none: a token of this owner may have created another one during the pass.
    for (let before = -1; before !== revoked.length; ) {
      before = revoked.length;
      failures.length = 0;
      for await (const ids of this.#tokens.idsOf(workspace, owner, onUnreadable)) {
        for (const id of ids) {
          // One token that cannot be revoked must not keep the others valid.
          try {
            if (await this.#revokeIfValid(caller, workspace, id)) revoked.push(id);
          } catch (error) {
            failures.push(error);
          }
        }
      }
    }
    if (failures.length > 0) throw failures[0];
    return revoked;
  }

  /** Revokes a token, and returns true. If the token does not exist or is already revoked, returns false. */
  async #revokeIfValid(caller: Caller, workspace: string, id: string): Promise<boolean> {
    const token = await this.#tokens.find(workspace, id);
    if (token === undefined || token.revoked !== undefined) return false;
    const change = { action: "token.revoke", workspace: caller.workspace, caller, subject: id } as const;
    const make = async () => ({ result: await this.#tokens.revoke(workspace, id) });
    // The caller's own token may be one of those that this call has revoked already.
    await this.#changes.record(change, make, async () => {});
    return true;
  }
}
