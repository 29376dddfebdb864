type Listener = (error: unknown) => void;

interface Hearing {
  readonly listeners: Set<Listener>;
  readonly tell: Listener;
}

const hearings = new WeakMap<object, Hearing>();

/**
 * Calls the listener with what a store emits as `error`, until the returned function is called. However many listen, the
 * store has one listener of ours; a store that emits nothing has none.
 */
export function hearErrors(store: object, listener: Listener): () => void {
  const own: Listener = (error) => listener(error);
  const { listeners, tell } = hearings.get(store) ?? begin(store);
  listeners.add(own);
  return () => {
    listeners.delete(own);
    if (listeners.size > 0 || hearings.get(store)?.tell !== tell) return;
    // From a store that cannot take a listener off, the one that it has serves those who come later.
    if (call(store, "off", tell) || call(store, "removeListener", tell)) hearings.delete(store);
  };
}

/** Does what is given, and takes off the listeners of `error` that it has left on the store. */
export function withoutNewListeners<Result>(store: object, work: () => Result): Result {
  const before = new Set(listenersOf(store));
  const result = work();
  for (const listener of listenersOf(store)) if (!before.has(listener)) call(store, "off", listener);
  return result;
}

function begin(store: object): Hearing {
  const listeners = new Set<Listener>();
  const tell: Listener = (error) => {
    for (const each of listeners) each(error);
  };
  call(store, "on", tell);
  const hearing = { listeners, tell };
  hearings.set(store, hearing);
  return hearing;
}

function call(store: object, method: "on" | "off" | "removeListener", listener: unknown): boolean {
  const found: unknown = Reflect.get(store, method);
  if (typeof found !== "function") return false;
  Reflect.apply(found, store, ["error", listener]);
  return true;
}

function listenersOf(store: object): readonly unknown[] {
  const found: unknown = Reflect.get(store, "listeners");
  const listeners: unknown = typeof found === "function" ? Reflect.apply(found, store, ["error"]) : [];
  return Array.isArray(listeners) ? [...listeners] : [];
}
