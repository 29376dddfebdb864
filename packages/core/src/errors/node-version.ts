import { KeywardError } from "./errors.ts";

/** The oldest version of Node.js that Keyward supports: the version in the `engines` field of its packages. */
const oldest = [22, 19] as const;

/**
 * Returns the version of Node.js of this process if Keyward does not support that version; otherwise `undefined`.
 *
 * @example
 * const version = unsupportedNodeVersion();
 * if (version !== undefined) console.error(`Node.js ${version} is not supported`);
 */
export function unsupportedNodeVersion(): string | undefined {
  // Other runtimes have no global `process`, or report the version of Node.js that they are compatible with.
  const version = globalThis.process?.versions?.node;
  const [major = 0, minor = 0] = (version ?? "").split(".").map(Number);
  const isOlder = major < oldest[0] || (major === oldest[0] && minor < oldest[1]);
  return version !== undefined && isOlder ? version : undefined;
}

/**
 * Returns the error for a call that fails because this version of Node.js is too old.
 *
 * @param what the beginning of the message: the failed operation, such as "No keys can be loaded".
 * @example
 * if (unsupportedNodeVersion() !== undefined) throw nodeTooOld("No keys can be loaded");
 */
export function nodeTooOld(what: string, cause?: unknown): KeywardError {
  const version = unsupportedNodeVersion() ?? "unknown";
  return new KeywardError(
    "PROVIDER_UNAVAILABLE",
    `${what}: this is Node.js ${version}, which Keyward does not support`,
    {
      hint: `Run this process with Node.js ${oldest.join(".")} or newer.`,
      cause,
    },
  );
}
