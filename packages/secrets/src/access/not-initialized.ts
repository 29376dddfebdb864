import { SecretsError } from "../secrets-error.ts";

/** Returns the error for a store without an initialized service. */
export function notInitialized(): SecretsError {
  return new SecretsError("NOT_INITIALIZED", "The store has no secrets service", {
    hint: "Run `keyward gateway init` once. If the service was initialized before, check that the store is the right one.",
  });
}
