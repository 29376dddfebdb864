/** How often something occurred that is told of with growing pauses. */
export interface Repetition {
  /** How many equal ones occurred since the last that was told, this one included; 1 for the first. */
  readonly times: number;
}

interface Remembered {
  times: number;
  lastMs: number;
  dueMs: number;
  pauseMs: number;
}

const firstPauseMs = 5_000;
const longestPauseMs = 5 * 60 * 1_000;
const maxRemembered = 32;
const maxCauses = 5;

/**
 * Decides when to tell of what goes wrong in the background again and again: at once when it is new, then with a count
 * after pauses that grow from 5 s to 5 min, and at once again after a success or after it had stopped for 10 min.
 */
export class Repetitions {
  readonly #remembered = new Map<string, Remembered>();
  readonly #nowMs: () => number;

  /**
   * Remembers nothing yet.
   *
   * @param nowMs a clock that only moves forward, in milliseconds.
   */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** How often this occurred where it is to be told of now; `undefined` where it is not. */
  occurred(problem: unknown): Repetition | undefined {
    const nowMs = this.#nowMs();
    const text = textOf(problem);
    const known = this.#remembered.get(text);
    if (known === undefined || nowMs - known.lastMs > 2 * longestPauseMs) {
      this.#remembered.delete(text);
      this.#remembered.set(text, { times: 0, lastMs: nowMs, dueMs: nowMs + firstPauseMs, pauseMs: firstPauseMs });
      this.#forgetOldest();
      return { times: 1 };
    }
    known.times++;
    known.lastMs = nowMs;
    if (nowMs < known.dueMs) return undefined;
    const { times } = known;
    known.times = 0;
    known.pauseMs = Math.min(2 * known.pauseMs, longestPauseMs);
    known.dueMs = nowMs + known.pauseMs;
    return { times };
  }

  /** It went well: whatever goes wrong next is told of at once. */
  succeeded(): void {
    this.#remembered.clear();
  }

  #forgetOldest(): void {
    if (this.#remembered.size <= maxRemembered) return;
    for (const oldest of this.#remembered.keys()) {
      this.#remembered.delete(oldest);
      return;
    }
  }
}

/** What makes two problems the same: all that they say, except how long something took. */
function textOf(problem: unknown): string {
  const parts: string[] = [];
  let one = problem;
  for (let depth = 0; depth <= maxCauses && one !== undefined; depth++) {
    if (!(one instanceof Error)) {
      parts.push(typeof one === "string" ? one : typeof one);
      break;
    }
    const code: unknown = Reflect.get(one, "code");
    parts.push(...[one.name, code, one.message].map(asText));
    one = one.cause;
  }
  return JSON.stringify(parts.map((part) => part.replace(/\d+(?= ?m?s\b)/g, "…")));
}

/** An error that others made may have anything as its name, code and message. */
function asText(given: unknown): string {
  return typeof given === "string" ? given : "";
}
