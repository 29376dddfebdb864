import type { KeyvStorageAdapter } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { namespacesOverlap, type WrappableStore } from "./adapters.ts";

/** The namespace of Keyward's own records in the reserved space. An application cannot use this namespace. */
export const reservedNamespace = "\0keyward";

/** For each store that was passed to be wrapped: the namespaces in use, and the number of users of each. */
const namespacesInUse = new WeakMap<object, Map<string, number>>();

/**
 * Prevents the users of one wrapped store, such as several `EncryptedStore`s, from mixing their records. Each user has
 * a `NamespaceUse`, and uses one namespace from its first call until `release()`. Users with different namespaces may
 * share a store only if records of these namespaces can never have the same key in the store.
 */
export class NamespaceUse {
  readonly #given: WrappableStore;
  readonly #adapter: KeyvStorageAdapter;
  /**
   * The namespace that was passed to `set`; `undefined` if `set` was not called, so that the namespace of the adapter
   * is used.
   */
  #wanted: string | undefined;
  /** The namespace that calls have used since the last release; `undefined` if there was no call. */
  #used: string | undefined;

  constructor(given: WrappableStore, adapter: KeyvStorageAdapter) {
    this.#given = given;
    this.#adapter = adapter;
  }

  /**
   * The namespace that was passed to `set`. If `set` was not called, this is the namespace of the adapter, or "" if the
   * adapter has no namespace.
   */
  get namespace(): string {
    return this.#wanted ?? this.#adapter.namespace ?? "";
  }

  /** True if the store was called since the last `release`, so that its namespace is in use. */
  get begun(): boolean {
    return this.#used !== undefined;
  }

  /**
   * Sets the namespace that the next call of the store uses. The namespace of the adapter changes only in that call,
   * because other users may share the adapter.
   *
   * @throws KeywardError `VALUE_INVALID` for the namespace of Keyward's own records.
   */
  set(namespace: string): void {
    requireUnreserved(namespace);
    this.#wanted = namespace;
  }

  /**
   * Begins the use of {@link NamespaceUse.namespace}, and returns this namespace. Each method of the store calls
   * `begin` once, at its start.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` if the store is in use with another namespace, and records of the two
   * namespaces could have the same key in the store; `VALUE_INVALID` for the namespace of Keyward's own records.
   */
  begin(): string {
    const { namespace } = this;
    if (namespace !== this.#used || namespace !== (this.#adapter.namespace ?? "")) this.#claim(namespace);
    return namespace;
  }

  /** Returns whether the store is in use with this namespace now. */
  isUsedWith(namespace: string): boolean {
    return this.#used === namespace;
  }

  /** Ends the use of the namespace, so that other users of the store can use another namespace. */
  release(): void {
    const used = this.#used;
    const inUse = namespacesInUse.get(this.#given);
    if (used === undefined || inUse === undefined) return;
    this.#used = undefined;
    const left = (inUse.get(used) ?? 1) - 1;
    if (left > 0) inUse.set(used, left);
    else inUse.delete(used);
  }

  #claim(namespace: string): void {
    requireUnreserved(namespace);
    const adapter = this.#adapter;
    // Throw if this user has not released its namespace: otherwise a call in progress would continue in the new
    // namespace.
    const before = this.#used;
    if (before !== undefined) throw conflict(before === namespace ? (adapter.namespace ?? "") : before, namespace);
    let inUse = namespacesInUse.get(this.#given);
    if (inUse === undefined) {
      inUse = new Map();
      namespacesInUse.set(this.#given, inUse);
    }
    for (const other of inUse.keys()) {
      if (namespacesOverlap(this.#given, adapter, other, namespace)) throw conflict(other, namespace);
    }
    inUse.set(namespace, (inUse.get(namespace) ?? 0) + 1);
    this.#used = namespace;
    if (namespace !== (adapter.namespace ?? "")) adapter.namespace = namespace === "" ? undefined : namespace;
  }
}

function requireUnreserved(namespace: string): void {
  if (namespace !== reservedNamespace) return;
  throw new KeywardError(
    "VALUE_INVALID",
    `The namespace ${JSON.stringify(namespace)} is reserved for Keyward's own records`,
    {
      hint: "Choose another namespace.",
    },
  );
}

function conflict(used: string, namespace: string): KeywardError {
  return new KeywardError(
    "NAMESPACE_CONFLICT",
    `This store instance is in use with the namespace ${JSON.stringify(used)} and cannot also use ${JSON.stringify(namespace)}`,
    {
      namespace,
      hint: "Give each Keyv its own store instance: `store.namespaced(…)` if the store has this method, otherwise a second adapter. If several Keyvs share one Map, no namespace may begin with another namespace and a colon.",
    },
  );
}
