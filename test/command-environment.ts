import { fileURLToPath } from "node:url";

/**
 * Where Node.js keeps the compiled modules of `keyward` between tests. Without this, most of the time of a command is spent
 * with compiling its TypeScript.
 */
const compiled = fileURLToPath(new URL("../node_modules/.cache/keyward-tests", import.meta.url));

/** Returns the environment variables that Node.js needs, with those of a test. */
export function commandEnvironment(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const { PATH = "", HOME = "" } = process.env;
  return { PATH, HOME, NODE_COMPILE_CACHE: compiled, ...env };
}
