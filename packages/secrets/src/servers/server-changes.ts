import type { ChangeCondition } from "../model.ts";
import { serverKey, valueKey } from "../records/record-keys.ts";
import { type ServerRecord, serverRecord } from "../records/server-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision } from "../store/service-store.ts";

/** If no secret points to a value after this time, the value is abandoned: its process has ended or is paused. */
const abandonedAfterMs = 60_000;
/** How long a value stays in the list of values to delete, if a paused process or a late write may still store it. */
export const lookedAfterMs = 24 * 3_600_000;

/** The address of a server. */
export interface ServerAddress {
  readonly workspace: string;
  readonly slug: string;
}

/**
 * Changes the record of a server by compare-and-swap. Each change also adds the values that processes have abandoned to
 * the values to delete.
 *
 * @throws SecretsError `SERVER_NOT_FOUND` if there is no such server, or if the server is being deleted;
 * `REVISION_CHANGED`; the errors of `decide` and of `ServiceStore.change`.
 */
export async function changeServer<Result>(
  { store }: ServiceContext,
  address: ServerAddress,
  { ifRevision }: ChangeCondition,
  decide: (current: ServerRecord) => Decision<ServerRecord, Result>,
): Promise<Result> {
  return await store.change(serverRecord, serverKey(address.workspace, address.slug), (current) => {
    const server = requireServer(current);
    if (ifRevision !== undefined && ifRevision !== server.revision) throw revisionChanged(server.revision);
    return decide(withoutAbandoned(server, Date.now()));
  });
}

/**
 * Returns the record of a server.
 *
 * @throws SecretsError `SERVER_NOT_FOUND` if there is no such server, or if the server is being deleted.
 */
export function requireServer(found: ServerRecord | undefined): ServerRecord {
  if (found !== undefined && !found.deleting) return found;
  throw serverNotFound();
}

/**
 * Returns the error for a server that does not exist or is being deleted.
 *
 * @param numbers for a list of servers: the positions of the missing servers in the list, from 1. The error does not
 * repeat their slugs, because one may be a pasted value. Default: the call names only one server.
 */
export function serverNotFound(numbers: readonly number[] = []): SecretsError {
  const problem =
    numbers.length === 0
      ? "The workspace has no such server"
      : `The workspace does not have every server of the list. Missing: number ${numbers.join(", ")}`;
  return new SecretsError("SERVER_NOT_FOUND", problem, {
    hint: "List the servers with `keyward servers list`, and correct the slug.",
  });
}

/** Returns the error for a change whose `ifRevision` is not the current revision. */
export function revisionChanged(revision: number): SecretsError {
  return new SecretsError("REVISION_CHANGED", `The revision is now ${revision}, so nothing was changed`, {
    hint: "Read the current state, decide whether the change is still right, and repeat the change with the current revision.",
  });
}

/**
 * Deletes the records of the values that a server no longer uses. Then removes these values from the server's list of
 * values to delete. If a step fails, reports the problem. A later change or the sweep tries again.
 */
export async function removeGarbage(
  context: ServiceContext,
  { workspace, slug }: ServerAddress,
  now: number = Date.now(),
): Promise<void> {
  try {
    const key = serverKey(workspace, slug);
    const record = await context.store.read(serverRecord, key);
    if (record === undefined || record.value.garbage.length === 0) return;
    const { id, garbage } = record.value;
    await context.store.remove(garbage.map(({ value }) => valueKey(workspace, id, value)));
    const removed = garbage.filter(({ until }) => until === undefined || until <= now).map(({ value }) => value);
    if (removed.length === 0) return;
    await context.store.change(serverRecord, key, (current): Decision<ServerRecord, undefined> => {
      if (current?.id !== id) return { result: undefined };
      const left = current.garbage.filter(({ value }) => !removed.includes(value));
      return left.length === current.garbage.length
        ? { result: undefined }
        : { next: { ...current, garbage: left }, result: undefined };
    });
  } catch (error) {
    context.onProblem(error);
  }
}

/** Returns the record of a server after moving the abandoned values from `pending` to `garbage`. */
export function withoutAbandoned(server: ServerRecord, now: number, afterMs: number = abandonedAfterMs): ServerRecord {
  const abandoned = server.pending.filter(({ since }) => now - since >= afterMs);
  if (abandoned.length === 0) return server;
  return {
    ...server,
    pending: server.pending.filter((pending) => !abandoned.includes(pending)),
    garbage: [...server.garbage, ...abandoned.map(({ value }) => ({ value, until: now + lookedAfterMs }))],
  };
}
