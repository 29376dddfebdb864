// Who closes a connection. This is the one rule for every store, and the only place that counts users:
//
// 1. `disconnect()` of the store that opened a connection closes it. Views of that store and its reserved space share the
//    connection, and their `disconnect()` closes nothing.
// 2. A store under several EncryptedStores, those of `createKeyv` included, is disconnected with the last of them. So is
//    whatever else several share without having opened it, such as a Keyv adapter under several stores.

interface Sharing {
  readonly users: Set<object>;
  /** What to do once the last user has left, by what it disconnects. */
  readonly closings: Map<object, () => Promise<unknown>>;
}

const sharings = new WeakMap<object, Sharing>();

/**
 * Counts one more user of a connection that several share without having opened it.
 *
 * @param shared stands for the connection, the same object for all who share it.
 * @param opened what `close` disconnects. Default: `shared`.
 * @param close disconnects it. Called once the last user has left, for each `opened` that a user has left.
 * @returns what counts this user off. Once nobody is left it closes, also when it is called again.
 * @example
 * const leave = shareConnection(adapter, async () => adapter.disconnect());
 */
export function shareConnection(
  shared: object,
  close: () => Promise<unknown>,
  opened: object = shared,
): () => Promise<void> {
  const { users, closings } = sharingOf(shared);
  const user = {};
  users.add(user);
  return async () => {
    users.delete(user);
    closings.set(opened, close);
    if (users.size > 0) return;
    const closing = [...closings.values()];
    closings.clear();
    const closed = await Promise.allSettled(closing.map(async (each) => await each()));
    for (const outcome of closed) if (outcome.status === "rejected") throw outcome.reason;
  };
}

function sharingOf(shared: object): Sharing {
  let sharing = sharings.get(shared);
  if (sharing === undefined) {
    sharing = { users: new Set(), closings: new Map() };
    sharings.set(shared, sharing);
  }
  return sharing;
}
