import { singleFlight } from "@keyward/core";

/** The options of {@link Readiness}. */
export interface ReadinessOptions<Part extends string> {
  /** Resolves if the service can answer. */
  readonly ready: () => Promise<void>;
  /** What does not answer if the check takes longer than five seconds. */
  readonly late: Part;
  /** Returns what does not answer after `ready` has rejected. */
  readonly failedParts: (error: unknown) => readonly Part[];
}

const longestCheckMs = 5_000;

/** Checks whether a service can answer. Checks at the same time share one check, so that they cost the store little. */
export class Readiness<Part extends string> {
  readonly #check: () => Promise<readonly Part[]>;

  /** Prepares the check. */
  constructor(options: ReadinessOptions<Part>) {
    this.#check = singleFlight(() => check(options));
  }

  /** Returns what is not ready; nothing if the service can answer. */
  notReady(): Promise<readonly Part[]> {
    return this.#check();
  }
}

async function check<Part extends string>({
  ready,
  late,
  failedParts,
}: ReadinessOptions<Part>): Promise<readonly Part[]> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<readonly Part[]>((resolve) => {
    timer = setTimeout(() => resolve([late]), longestCheckMs);
  });
  const answered = ready().then((): readonly Part[] => [], failedParts);
  try {
    return await Promise.race([answered, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}
