import { KeywardError } from "@keyward/core";

const hints = {
  path: "Pass the path of the secret inside its secrets engine, such as `app/keyring`, without the mount and without `data/`.",
  mount: "Pass the path at which the secrets engine is mounted, such as `secret` or `transit`.",
  key: "Pass the name of the key in the Transit engine, such as `app`.",
};

/**
 * Encodes a path in Vault for a URL, without slashes at its ends.
 *
 * @param name Name of the option that holds the path, for errors.
 * @throws KeywardError `VALUE_INVALID` for a path that is empty, or has a part that is empty, `.` or `..`.
 */
export function encodePath(path: string, name: keyof typeof hints): string {
  const parts = typeof path === "string" ? withoutOuterSlashes(path).split("/") : [];
  // A URL with such parts would lead to another path.
  if (
    parts.length === 0 ||
    parts.some((part) => part === "" || part === "." || part === ".." || !part.isWellFormed())
  ) {
    throw new KeywardError("VALUE_INVALID", `The option "${name}" is not a valid path in Vault`, {
      hint: `${hints[name]} No part between slashes may be empty, "." or "..".`,
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
