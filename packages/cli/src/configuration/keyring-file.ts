import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Told } from "./sources.ts";

/** Returns the path in a source of keys such as `file:production.keyring`; `undefined` for another source. */
export function filePath(keys: string): string | undefined {
  if (!keys.startsWith("file:")) return undefined;
  return keys.startsWith("file://") ? fileURLToPath(keys) : keys.slice("file:".length);
}

/** Returns the path of the file from which a command loads its keyring; `undefined` for another source of keys. */
export function keyringFile({ options, env, config }: Told): string | undefined {
  const named = options.keys ?? env["KEYWARD_KEYS"] ?? "";
  const configured = config?.settings.keys;
  try {
    if (named.trim() !== "") {
      const path = filePath(named.trim());
      return path === undefined ? undefined : resolve(path);
    }
    const path = typeof configured === "string" ? filePath(configured.trim()) : undefined;
    return path === undefined ? undefined : config?.pathOf(path);
  } catch {
    // Loading the keys reports a file URL that is not a path on this machine.
    return undefined;
  }
}
