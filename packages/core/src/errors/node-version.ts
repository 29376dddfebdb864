import { KeywardError } from "./errors.ts";

/** The oldest Node.js that Keyward supports, as `engines` in its packages has it. */
const oldest = [22, 19] as const;

/** The version of Node.js in use, if it is one that is older than Keyward supports. */
export function unsupportedNodeVersion(): string | undefined {
  // Other runtimes have no process, or name a Node.js that they are compatible with.
  const version = globalThis.process?.versions?.node;
  const [major = 0, minor = 0] = (version ?? "").split(".").map(Number);
  const isOlder = major < oldest[0] || (major === oldest[0] && minor < oldest[1]);
  return version !== undefined && isOlder ? version : undefined;
}

/** The error for something that this version of Node.js lacks; `what` failed for it. */
export function nodeTooOld(what: string, cause?: unknown): KeywardError {
  const version = unsupportedNodeVersion() ?? "unknown";
  return new KeywardError(
    "PROVIDER_UNAVAILABLE",
    `${what}: this is Node.js ${version}, which Keyward does not support`,
    {
      hint: `Run this with Node.js ${oldest.join(".")} or newer.`,
      cause,
    },
  );
}
