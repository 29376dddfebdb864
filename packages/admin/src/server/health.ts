import { KeywardError } from "@keyward/core";
import { Readiness } from "@keyward/listener";
import { SecretsError } from "@keyward/secrets";
import type { SecretsService } from "../api/secrets-service.ts";

/** A part of the service that is not ready. `service`: not initialized, or an error that names no part. */
export type NotReady = "store" | "keys" | "audit" | "service" | "closing";

/** Returns a check for `/readyz`: which parts of the service are not ready. */
export function readinessOf(
  admin: Pick<SecretsService, "ready">,
  onError: (error: unknown) => void,
): Readiness<NotReady> {
  return new Readiness<NotReady>({
    ready: () => admin.ready(),
    late: "store",
    failedParts: (error) => {
      onError(error);
      return failedParts(error);
    },
  });
}

function failedParts(error: unknown): readonly NotReady[] {
  if (error instanceof KeywardError) return error.notReady ?? ["store"];
  if (error instanceof SecretsError && error.code === "AUDIT_UNAVAILABLE") return ["audit"];
  return ["service"];
}
