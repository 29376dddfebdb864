import { KeywardError } from "@keyward/core";

/**
 * A package that need not be installed.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` that says which to install.
 */
export async function importProvider<Module>(name: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load();
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ERR_MODULE_NOT_FOUND";
    // Another package may be the one that is missing: then the cause says which.
    const isThisOne = missing && cause.message.includes(`'${name}'`);
    throw new KeywardError(
      "PROVIDER_UNAVAILABLE",
      isThisOne ? `${name} is not installed, which this source of keys needs` : `${name} cannot be loaded`,
      { hint: isThisOne ? `Install it: npm install ${name}` : "See the cause.", cause },
    );
  }
}
