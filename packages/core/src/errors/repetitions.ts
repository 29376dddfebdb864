/** Reports that a repeated problem has occurred. */
export interface Repetition {
  /** How often the problem has occurred since its last report, including this time. 1 in the first report. */
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
 * Decides when to report a problem that is repeated in the background, so that a log does not fill with it. A new
 * problem is reported at once. While the problem continues, it is reported again after pauses that grow from 5 s to 5
 * min. Each report contains how often the problem has occurred since its last report. After a success, or after 10 min
 * without the problem, the problem is treated as new.
 *
 * @example
 * const failures = new Repetitions();
 * const report = failures.occurred(new Error("The connection is lost"));
 * if (report !== undefined) console.error(`The connection is lost (${report.times} times)`);
 */
export class Repetitions {
  readonly #remembered = new Map<string, Remembered>();
  readonly #nowMs: () => number;

  /**
   * Creates a `Repetitions` that treats every problem as new.
   *
   * @param nowMs a clock in milliseconds that never goes back. Default: `performance.now()`.
   */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /**
   * Records that `problem` occurred. If the caller should report the problem now, returns the report. Otherwise returns
   * `undefined`.
   */
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

  /**
   * Records that the work in the background succeeded, so that the next problem is treated as new and reported at once.
   */
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

/**
 * Returns a text that identifies a problem: the names, codes and messages of an error and its causes. Durations are
 * left out, because they differ each time.
 */
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

/**
 * Returns `given` if it is text, otherwise "". The name, code or message of another library's error may have any type.
 */
function asText(given: unknown): string {
  return typeof given === "string" ? given : "";
}
