import type { KeyvStorageAdapter } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { namespacesOverlap, type WrappableStore } from "./wrappable-store.ts";

/** The namespace that records of the reserved space are encrypted for. An application cannot choose it. */
export const reservedNamespace = "\0keyward";

/** The namespaces in use on each store that was passed to be wrapped, with the number of their users. */
const namespacesInUse = new WeakMap<object, Map<string, number>>();

/**
 * The namespace of one user of a wrapped store. Several users may share a store if the keys of their namespaces cannot
 * overlap in it. A namespace is in use from the first call until it is released.
 */
export class NamespaceUse {
  readonly #given: WrappableStore;
  readonly #adapter: KeyvStorageAdapter;
  /** The namespace that was set; `undefined` for that of the adapter. */
  #wanted: string | undefined;
  /** The namespace that calls have used. */
  #used: string | undefined;

  constructor(given: WrappableStore, adapter: KeyvStorageAdapter) {
    this.#given = given;
    this.#adapter = adapter;
  }

  /** The namespace that was set, or else that of the adapter; "" for none. */
  get namespace(): string {
    return this.#wanted ?? this.#adapter.namespace ?? "";
  }

  /** True if a call has used a namespace since the last release. */
  get begun(): boolean {
    return this.#used !== undefined;
  }

  /**
   * Sets the namespace of the next call. An adapter that others use stays as it is until then.
   *
   * @throws KeywardError `VALUE_INVALID` for the reserved namespace.
   */
  set(namespace: string): void {
    requireUnreserved(namespace);
    this.#wanted = namespace;
  }

  /**
   * Marks the namespace as in use, and returns it. Each call of the store reads the namespace once, at its start.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` when the store is in use with another namespace whose keys could overlap;
   * `VALUE_INVALID` for the reserved namespace.
   */
  begin(): string {
    const { namespace } = this;
    if (namespace !== this.#used || namespace !== (this.#adapter.namespace ?? "")) this.#claim(namespace);
    return namespace;
  }

  /** Ends the use, so that others can use the store with another namespace. */
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
    // A call that is in progress would continue in the other namespace.
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
      hint:
        "Give each Keyv its own store instance: store.namespaced(…) if the store has it, or a second adapter. Over one " +
        "Map, no namespace may begin with another namespace and a colon.",
    },
  );
}
