// The rules for closing a connection, for every store. Only this module counts the users of a connection:
//
// 1. The store that opened a connection closes the connection in its `disconnect()`. Views of that store and its
//    reserved space share the connection, and their `disconnect()` closes nothing.
// 2. A store under several EncryptedStores, including those of `createKeyv`, is disconnected when the last of these
//    EncryptedStores disconnects. This also holds for any other object that its users share and did not open, such as
//    a Keyv adapter under several stores.

interface Sharing {
  readonly users: Set<object>;
  /**
   * The functions to call after the last user has left. Each function disconnects the object that is its key in this
   * Map.
   */
  readonly closings: Map<object, () => Promise<unknown>>;
}

const sharings = new WeakMap<object, Sharing>();

/**
 * Registers one more user of a connection. The returned function removes this user, and closes the connection if it was
 * the last user.
 *
 * @param shared the object that identifies the connection, such as an adapter. Pass the same object for all users.
 * @param close disconnects `opened`. Called after the last user has left, once for each different `opened`.
 * @param opened the object that `close` disconnects. Default: `shared`.
 * @returns a function that removes this user, and closes the connection if no user is left. If the function is called
 * again while the connection has no users, it closes the connection again.
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
