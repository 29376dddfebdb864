import { KeywardError, type KeywardErrorCode } from "./errors.ts";
import { nodeTooOld, unsupportedNodeVersion } from "./node-version.ts";

const notFound: readonly string[] = ["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"];

/**
 * Returns a function to pass to `catch` after the `import()` of an optional package. The function throws an error that
 * explains why the import failed. Write the `catch` directly after the `import()`, because only then can a bundler
 * build an application in which the package is not installed.
 *
 * @param name the package.
 * @param what the feature that needs the package, for the message, such as "This source of keys".
 * @param code the code of the error.
 * @throws KeywardError `code` if the package is not installed, cannot be loaded, or needs a newer Node.js.
 * @example
 * const missing = packageNotLoaded("@keyward/store-redis", "This source of records", "STORE_INVALID");
 * const { RedisStore } = await import("@keyward/store-redis").catch(missing);
 */
export function packageNotLoaded(name: string, what: string, code: KeywardErrorCode): (cause: unknown) => never {
  return (cause) => {
    const missing = cause instanceof Error && notFound.includes(codeOf(cause));
    // If a dependency of the package is missing, the message names the dependency instead.
    if (missing && cause.message.includes(`'${name}'`)) {
      throw new KeywardError(code, `${what} needs the package ${name}, which is not installed`, {
        hint: `Run \`npm install ${name}\`.`,
        cause,
      });
    }
    if (unsupportedNodeVersion() !== undefined) throw nodeTooOld(`The package ${name} cannot be loaded`, cause);
    throw new KeywardError(code, `The package ${name} cannot be loaded`, {
      hint: `Read the reason in the property \`cause\` of this error. If the package is incomplete, run \`npm install ${name}\` again.`,
      cause,
    });
  };
}

function codeOf(cause: Error): string {
  return "code" in cause && typeof cause.code === "string" ? cause.code : "";
}
