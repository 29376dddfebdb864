import { KeywardError, nodeTooOld, systemCode, unsupportedNodeVersion } from "@keyward/core";

const notFound: readonly string[] = ["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"];

/**
 * Returns a function for `catch` that handles the failed import of an optional package. Write the `catch` directly after
 * the import. Only then does a bundler leave the import of a package that is not installed to run time, instead of failing.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the package is not installed, cannot be loaded, or needs a newer Node.js.
 */
export function notLoaded(name: string): (cause: unknown) => never {
  return (cause) => {
    const missing = cause instanceof Error && notFound.includes(systemCode(cause));
    // If a dependency of the package is missing, the message names the dependency instead.
    if (missing && cause.message.includes(`'${name}'`)) {
      throw new KeywardError("PROVIDER_UNAVAILABLE", `This source of keys needs ${name}, which is not installed`, {
        hint: `Run \`npm install ${name}\`.`,
        cause,
      });
    }
    if (unsupportedNodeVersion() !== undefined) throw nodeTooOld(`${name} cannot be loaded`, cause);
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be loaded`, {
      hint: `Read the reason in the property \`cause\` of this error. If the package is incomplete, run \`npm install ${name}\` again. Other sources of keys are not affected.`,
      cause,
    });
  };
}
