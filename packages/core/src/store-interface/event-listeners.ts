type Listener = (detail: unknown) => void;

interface Hearing {
  readonly listeners: Set<Listener>;
  readonly tell: Listener;
}

const hearings = new WeakMap<object, Map<string, Hearing>>();

/**
 * Calls the listener with what an emitter emits, until the returned function is called. However many listen, the emitter
 * has one listener of ours, so Node.js warns of no leak; an object that emits nothing has none.
 *
 * @param emitter what has `on`, and `off` or `removeListener`.
 * @returns what takes the listener off.
 * @example
 * const unlisten = shareListener(client, "error", (error) => console.error(error));
 */
export function shareListener(emitter: object, event: string, listener: (detail: unknown) => void): () => void {
  const own: Listener = (detail) => listener(detail);
  let ofEmitter = hearings.get(emitter);
  if (ofEmitter === undefined) {
    ofEmitter = new Map();
    hearings.set(emitter, ofEmitter);
  }
  const { listeners, tell } = ofEmitter.get(event) ?? begin(emitter, event);
  ofEmitter.set(event, { listeners, tell });
  listeners.add(own);
  return () => {
    listeners.delete(own);
    if (listeners.size > 0 || ofEmitter.get(event)?.tell !== tell) return;
    // From an emitter that cannot take a listener off, the one that it has serves those who come later.
    if (call(emitter, "off", event, tell) || call(emitter, "removeListener", event, tell)) ofEmitter.delete(event);
  };
}

/** Does what is given, and takes off the listeners of `error` that it has left on the store. */
export function withoutNewListeners<Result>(store: object, work: () => Result): Result {
  const before = new Set(listenersOf(store));
  const result = work();
  for (const listener of listenersOf(store)) if (!before.has(listener)) call(store, "off", "error", listener);
  return result;
}

function begin(emitter: object, event: string): Hearing {
  const listeners = new Set<Listener>();
  const tell: Listener = (detail) => {
    for (const each of listeners) each(detail);
  };
  call(emitter, "on", event, tell);
  return { listeners, tell };
}

function call(emitter: object, method: "on" | "off" | "removeListener", event: string, listener: unknown): boolean {
  const found: unknown = Reflect.get(emitter, method);
  if (typeof found !== "function") return false;
  Reflect.apply(found, emitter, [event, listener]);
  return true;
}

function listenersOf(store: object): readonly unknown[] {
  const found: unknown = Reflect.get(store, "listeners");
  const listeners: unknown = typeof found === "function" ? Reflect.apply(found, store, ["error"]) : [];
  return Array.isArray(listeners) ? [...listeners] : [];
}
