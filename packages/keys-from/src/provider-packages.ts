import { KeywardError, nodeTooOld, unsupportedNodeVersion } from "@keyward/core";

const notFound: readonly unknown[] = ["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"];

/**
 * What becomes of the import of a package that need not be installed, if it fails. To be given to `catch` right behind the
 * import: a bundler then leaves the import to run time, where it would refuse a package that is missing otherwise.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` that says which to install, or that this Node.js is too old.
 */
export function notLoaded(name: string): (cause: unknown) => never {
  return (cause) => {
    const missing = cause instanceof Error && "code" in cause && notFound.includes(cause.code);
    // Another package may be the one that is missing: then the cause says which.
    if (missing && cause.message.includes(`'${name}'`)) {
      throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} is not installed, which this source of keys needs`, {
        hint: `Install it: npm install ${name}`,
        cause,
      });
    }
    if (unsupportedNodeVersion() !== undefined) throw nodeTooOld(`${name} cannot be loaded`, cause);
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be loaded`, { hint: "See the cause.", cause });
  };
}
