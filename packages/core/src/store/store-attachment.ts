import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import type { BackgroundEvents } from "./background-events.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { LazyReencryption } from "./lazy-reencryption.ts";
import type { ReplicaRegistration } from "./replica-registration.ts";

/** A store that may have a method `disconnect()`. */
export interface Disconnectable {
  disconnect?(): Promise<unknown>;
}

/** The parts of a store that {@link StoreAttachment} uses. */
export interface AttachedParts {
  readonly inner: WrappedStore;
  readonly source: KeyringSource;
  readonly check: KeyringCheck;
  readonly registration: ReplicaRegistration | undefined;
  readonly reencryption: LazyReencryption | undefined;
  readonly events: BackgroundEvents;
  /**
   * If the wrapped store is a view: the store that returned the view. `disconnect()` disconnects that store instead of
   * the view.
   */
  readonly opened: Disconnectable | undefined;
}

/** The functions that release the resources of an attached store. */
interface Held {
  /** Stops listening to the key source. */
  readonly stopSource: () => unknown;
  /** Stops listening to the errors of the wrapped store. */
  readonly stopErrors: () => unknown;
  /** Ends the heartbeat, if no other store of the process is registered. */
  readonly leaveReplicas: (() => unknown) | undefined;
}

/**
 * Acquires and releases the resources of an `EncryptedStore`: its listeners on the key source and on the wrapped store,
 * its heartbeat, and its registration as a user of the connection. The store is attached while it has these resources.
 * A call such as `get` after `disconnect()` attaches the store again.
 */
export class StoreAttachment {
  readonly #parts: AttachedParts;
  #held: Held | undefined;
  /**
   * Disconnects the wrapped store if no other `EncryptedStore` uses its backend. Kept after `disconnect()`, so that a
   * repeated `disconnect()` tries again.
   */
  #leaveConnection: (() => Promise<void>) | undefined;
  #disconnecting: Promise<void> | undefined;
  /**
   * True if the store was attached again while a `disconnect()` is in progress that has already released its resources.
   */
  #attachedAgain = false;

  constructor(parts: AttachedParts) {
    this.#parts = parts;
  }

  /** Acquires the resources of the store. Does nothing if the store is already attached. */
  attach(): void {
    if (this.#held !== undefined) return;
    const { inner, registration, opened } = this.#parts;
    let stopSource: (() => void) | undefined;
    let stopErrors: (() => void) | undefined;
    let leaveReplicas: (() => unknown) | undefined;
    try {
      stopSource = this.#listenToSource();
      stopErrors = this.#listenToErrors();
      leaveReplicas = registration === undefined ? undefined : this.#register(registration);
    } catch (error) {
      // Registering is the last step, so if it throws, only the two listeners have to be removed.
      stopErrors?.();
      stopSource?.();
      throw error;
    }
    this.#leaveConnection = inner.shareConnection(opened);
    this.#held = { stopSource, stopErrors, leaveReplicas };
    this.#attachedAgain = this.#disconnecting !== undefined;
  }

  /** Returns the namespace for a call such as `get`. If the store is not attached, first attaches it. */
  namespaceForCall(): string {
    if (this.#held === undefined) this.attach();
    return this.#parts.inner.useNamespace();
  }

  /**
   * Waits for lazy re-encryption, then releases the resources of the store. If another `disconnect()` is in progress,
   * only waits for it, unless the store was attached again in between: in this case, then releases the resources again.
   */
  async disconnect(): Promise<void> {
    const running = this.#disconnecting;
    await (running === undefined || this.#attachedAgain ? this.#disconnectAfter(running) : running);
  }

  #disconnectAfter(running: Promise<void> | undefined): Promise<void> {
    this.#attachedAgain = false;
    const release = () => this.#release();
    const disconnecting = (running === undefined ? release() : running.then(release, release)).finally(() => {
      if (this.#disconnecting === disconnecting) this.#disconnecting = undefined;
    });
    this.#disconnecting = disconnecting;
    return disconnecting;
  }

  async #release(): Promise<void> {
    await this.#parts.reencryption?.settled();
    const held = this.#held;
    this.#held = undefined;
    // If one function fails, still call the others. Stop listening to errors last, so that the errors of the wrapped
    // store are reported until its connection is closed.
    const failures: unknown[] = [];
    for (const release of [held?.stopSource, held?.leaveReplicas, this.#leaveConnection, held?.stopErrors]) {
      try {
        await release?.();
      } catch (error) {
        failures.push(error);
      }
    }
    this.#parts.inner.releaseNamespace();
    if (failures.length > 0) throw failures[0];
  }

  #listenToSource(): () => void {
    const { source, check, events } = this.#parts;
    return source.listen({
      tell: (report) => {
        switch (report.kind) {
          case "changed":
            return events.emit("keyring:changed", report.ring);
          case "failed":
            return events.emitFailure("provider:error", report.error, report.error);
          case "recovered":
            return events.succeeded("provider:error");
        }
      },
      recognizes: (next, previous) => check.recognizes(next, previous),
    });
  }

  #listenToErrors(): () => void {
    const { inner, events } = this.#parts;
    return inner.onError((error) => events.emitFailure("store:error", error, error));
  }

  #register(registration: ReplicaRegistration): () => Promise<void> {
    const { events } = this.#parts;
    return registration.join((report) => {
      switch (report.kind) {
        case "lapsed":
          return events.emit("replica:lapsed", undefined);
        case "failed":
          return events.emitFailure("replica:error", report.error, report.error);
        case "recovered":
          return events.succeeded("replica:error");
      }
    });
  }
}
