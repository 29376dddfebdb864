/**
 * Returns the environment variables that Node.js needs, together with the variables of a test. `vitest.config.ts` sets one of
 * them, the folder where Node.js keeps compiled modules between processes. Without this folder, a command would spend most of
 * its time compiling its TypeScript.
 */
export function commandEnvironment(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const { PATH = "", HOME = "", NODE_COMPILE_CACHE = "" } = process.env;
  return { PATH, HOME, NODE_COMPILE_CACHE, ...env };
}
