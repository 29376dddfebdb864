import { singleFlight } from "@keyward/core";

/** The options of {@link Readiness}. */
export interface ReadinessOptions<Part extends string> {
  /** Checks the service. The promise resolves if the service can answer, and rejects otherwise. */
  readonly ready: () => Promise<void>;
  /** The part of the service that is reported as not ready if the check takes longer than five seconds. */
  readonly late: Part;
  /** Returns the parts of the service that are not ready. `error` is the error with which `ready` rejected. */
  readonly failedParts: (error: unknown) => readonly Part[];
}

const longestCheckMs = 5_000;

/** Checks whether a service can answer. Simultaneous calls share one check, so that the store is asked only once. */
export class Readiness<Part extends string> {
  readonly #check: () => Promise<readonly Part[]>;

  /** Takes the options, without checking the service. */
  constructor(options: ReadinessOptions<Part>) {
    this.#check = singleFlight(() => check(options));
  }

  /** Checks the service, and returns the parts that are not ready. Returns an empty list if the service can answer. */
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
