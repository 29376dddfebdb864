import { KeywardError } from "@keyward/core";

/**
 * A path in Vault for a URL, without slashes at its ends.
 *
 * @throws KeywardError `VALUE_INVALID` for one that leads elsewhere.
 */
export function encodePath(path: string, name: string): string {
  const parts = typeof path === "string" ? withoutOuterSlashes(path).split("/") : [];
  // The parts would be resolved before they are sent.
  if (
    parts.length === 0 ||
    parts.some((part) => part === "" || part === "." || part === ".." || !part.isWellFormed())
  ) {
    throw new KeywardError("VALUE_INVALID", `${name} is no path in Vault, such as app/keyring`, {
      hint: "Give it as `bao kv get` takes it, without data/ in front, and no empty part, . or ...",
    });
  }
  return parts.map(encodeURIComponent).join("/");
}

function withoutOuterSlashes(path: string): string {
  let start = 0;
  let end = path.length;
  while (path[start] === "/") start++;
  while (end > start && path[end - 1] === "/") end--;
  return path.slice(start, end);
}
