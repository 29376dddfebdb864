/**
 * Returns the environment variables that Node.js needs, with those of a test. One of them is the folder where Node.js keeps
 * compiled modules between processes, which `vitest.config.ts` sets. Without it, most of the time of a command is spent
 * with compiling its TypeScript.
 */
export function commandEnvironment(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const { PATH = "", HOME = "", NODE_COMPILE_CACHE = "" } = process.env;
  return { PATH, HOME, NODE_COMPILE_CACHE, ...env };
}
