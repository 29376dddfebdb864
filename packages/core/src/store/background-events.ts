import { Repetitions } from "../errors/repetitions.ts";

/** The names of the events that report a failure in the background, which may be repeated. */
export type FailureEvent = "provider:error" | "store:error" | "replica:error" | "reencrypt:error";

/** Emits the events of a store for its work in the background, such as loading keys and re-encryption. */
export class BackgroundEvents {
  readonly #emit: (event: string, ...details: unknown[]) => void;
  readonly #repetitions = new Map<FailureEvent | "listener", Repetitions>();

  constructor(emit: (event: string, ...details: unknown[]) => void) {
    this.#emit = emit;
  }

  /** Emits an event. If a listener throws, emits a process warning, because no caller could catch the error. */
  emit(event: string, ...details: unknown[]): void {
    try {
      this.#emit(event, ...details);
    } catch (error) {
      this.#warnOfListener(event, error);
    }
  }

  /**
   * Emits a failure at once when it first occurs. If the failure is repeated, emits it again only after growing pauses,
   * as {@link Repetitions} decides. The event contains the number of occurrences.
   */
  emitFailure(event: FailureEvent, detail: unknown, problem: unknown): void {
    const repetition = this.#repetitionsOf(event).occurred(problem);
    if (repetition !== undefined) this.emit(event, detail, repetition);
  }

  /** Records a success, so that the next failure with this event is emitted at once. */
  succeeded(event: FailureEvent): void {
    this.#repetitionsOf(event).succeeded();
  }

  #warnOfListener(event: string, error: unknown): void {
    const problem = `A listener of "${event}" threw (${error instanceof Error ? error.name : typeof error})`;
    const repetition = this.#repetitionsOf("listener").occurred(problem);
    if (repetition === undefined) return;
    const { times } = repetition;
    process.emitWarning(times === 1 ? problem : `${problem}, ${times} times since the last warning`, {
      type: "KeywardWarning",
      code: "KEYWARD_LISTENER",
    });
  }

  #repetitionsOf(what: FailureEvent | "listener"): Repetitions {
    let repetitions = this.#repetitions.get(what);
    if (repetitions === undefined) {
      repetitions = new Repetitions();
      this.#repetitions.set(what, repetitions);
    }
    return repetitions;
  }
}
