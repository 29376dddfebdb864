import { SecretsError } from "../secrets-error.ts";

/** Returns the error for a store without an initialized service. */
export function notInitialized(): SecretsError {
  return new SecretsError("NOT_INITIALIZED", "The store has no secrets service", {
    hint: "Check that the store is the right one. If the service was used before, restore the store from a backup. For a new service, run `keyward gateway init`.",
  });
}
