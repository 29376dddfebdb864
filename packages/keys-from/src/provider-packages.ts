import { KeywardError, nodeTooOld, systemCode, unsupportedNodeVersion } from "@keyward/core";

const notFound: readonly string[] = ["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"];

/**
 * Returns a function for `catch` that handles the failed import of an optional package. Write the `catch` directly after
 * the import: a bundler then leaves the import to run time, and does not refuse a package that is not installed.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the package is not installed, cannot be loaded, or needs a newer Node.js.
 */
export function notLoaded(name: string): (cause: unknown) => never {
  return (cause) => {
    const missing = cause instanceof Error && notFound.includes(systemCode(cause));
    // If a dependency of the package is missing, the message names the dependency instead.
    if (missing && cause.message.includes(`'${name}'`)) {
      throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} is not installed, which this source of keys needs`, {
        hint: `Install it: npm install ${name}`,
        cause,
      });
    }
    if (unsupportedNodeVersion() !== undefined) throw nodeTooOld(`${name} cannot be loaded`, cause);
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be loaded`, {
      hint: `Read the cause, and install ${name} again: npm install ${name}. Other sources of keys are not affected.`,
      cause,
    });
  };
}
