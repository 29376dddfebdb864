import { KeywardError, nodeTooOld, systemCode, unsupportedNodeVersion } from "@keyward/core";

const notFound: readonly string[] = ["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"];

/**
 * Returns a function to pass to `catch` after the `import()` of an optional package. The function throws an error that
 * explains why the import failed. Write the `catch` directly after the `import()`, because only then can a bundler
 * build an application in which the package is not installed.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the package is not installed, cannot be loaded, or needs a newer
 * Node.js.
 */
export function notLoaded(name: string): (cause: unknown) => never {
  return (cause) => {
    const missing = cause instanceof Error && notFound.includes(systemCode(cause));
    // If a dependency of the package is missing, the message names the dependency instead.
    if (missing && cause.message.includes(`'${name}'`)) {
      throw new KeywardError(
        "PROVIDER_UNAVAILABLE",
        `This source of keys needs the package ${name}, which is not installed`,
        {
          hint: `Run \`npm install ${name}\`.`,
          cause,
        },
      );
    }
    if (unsupportedNodeVersion() !== undefined) throw nodeTooOld(`The package ${name} cannot be loaded`, cause);
    throw new KeywardError("PROVIDER_UNAVAILABLE", `The package ${name} cannot be loaded`, {
      hint: `Read the reason in the property \`cause\` of this error. If the package is incomplete, run \`npm install ${name}\` again. The other sources of keys, which do not need this package, still work.`,
      cause,
    });
  };
}
