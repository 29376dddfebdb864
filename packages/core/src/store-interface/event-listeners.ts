type Listener = (detail: unknown) => void;

interface SharedListener {
  readonly listeners: Set<Listener>;
  readonly emit: Listener;
}

const sharedListeners = new WeakMap<object, Map<string, SharedListener>>();

/**
 * Calls the listener for each event of an emitter, until the returned function is called. All listeners for one event
 * share a single listener on the emitter, so Node.js does not warn of a leak. If the emitter has no method `on`, the
 * listener is never called.
 *
 * @param emitter an object with `on`, and with `off` or `removeListener`.
 * @returns a function that removes the listener.
 * @example
 * const unlisten = shareListener(client, "error", (error) => console.error(error));
 */
export function shareListener(emitter: object, event: string, listener: (detail: unknown) => void): () => void {
  const ownListener: Listener = (detail) => listener(detail);
  let ofEmitter = sharedListeners.get(emitter);
  if (ofEmitter === undefined) {
    ofEmitter = new Map();
    sharedListeners.set(emitter, ofEmitter);
  }
  const { listeners, emit } = ofEmitter.get(event) ?? listen(emitter, event);
  ofEmitter.set(event, { listeners, emit });
  listeners.add(ownListener);
  return () => {
    listeners.delete(ownListener);
    if (listeners.size > 0 || ofEmitter.get(event)?.emit !== emit) return;
    // If the emitter cannot remove a listener, keep the shared one for later callers.
    if (call(emitter, "off", event, emit) || call(emitter, "removeListener", event, emit)) ofEmitter.delete(event);
  };
}

const silenced = new WeakSet<object>();

/**
 * Ignores the errors that an emitter reports after its owner has closed it. Without a listener for `error`, an
 * `EventEmitter` throws such an error, which ends the process.
 *
 * @example
 * ignoreLaterErrors(client);
 * await client.disconnect();
 */
export function ignoreLaterErrors(emitter: object): void {
  if (silenced.has(emitter)) return;
  silenced.add(emitter);
  call(emitter, "on", "error", () => undefined);
}

/** Runs `work`, and then removes the listeners for the event `error` that `work` has added to the store. */
export function withoutNewListeners<Result>(store: object, work: () => Result): Result {
  const before = new Set(listenersOf(store));
  const result = work();
  for (const listener of listenersOf(store)) if (!before.has(listener)) call(store, "off", "error", listener);
  return result;
}

function listen(emitter: object, event: string): SharedListener {
  const listeners = new Set<Listener>();
  const emit: Listener = (detail) => {
    for (const each of listeners) each(detail);
  };
  call(emitter, "on", event, emit);
  return { listeners, emit };
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
