import { KeywardError, singleFlight } from "@keyward/core";
import { SecretsError } from "@keyward/secrets";
import type { SecretsService } from "../api/secrets-service.ts";

/** What of the service does not answer. `service`: it was not initialized, or what failed is not known. */
export type NotReady = "store" | "keys" | "audit" | "service" | "closing";

const longestCheckMs = 5_000;

/** Checks whether the service can answer. Checks at the same time share one check, so that they cost the store little. */
export class Readiness {
  readonly #check: () => Promise<readonly NotReady[]>;

  constructor(admin: Pick<SecretsService, "ready">, onError: (error: unknown) => void) {
    this.#check = singleFlight(() => check(admin, onError));
  }

  /** Returns what is not ready; nothing if the service can answer. */
  notReady(): Promise<readonly NotReady[]> {
    return this.#check();
  }
}

async function check(
  admin: Pick<SecretsService, "ready">,
  onError: (error: unknown) => void,
): Promise<readonly NotReady[]> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<readonly NotReady[]>((resolve) => {
    timer = setTimeout(() => resolve(["store"]), longestCheckMs);
  });
  const answered = admin.ready().then(
    (): readonly NotReady[] => [],
    (error: unknown) => {
      onError(error);
      return failedParts(error);
    },
  );
  try {
    return await Promise.race([answered, late]);
  } finally {
    clearTimeout(timer);
  }
}

function failedParts(error: unknown): readonly NotReady[] {
  if (error instanceof KeywardError) return error.notReady ?? ["store"];
  if (error instanceof SecretsError && error.code === "AUDIT_UNAVAILABLE") return ["audit"];
  return ["service"];
}
