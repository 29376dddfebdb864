import { KeywardError } from "@keyward/core";

const hints = {
  path: "Pass the path of the secret inside its secrets engine, such as `app/keyring`, without the mount and without `data/`.",
  mount: "Pass the path at which the secrets engine is mounted, such as `secret` or `transit`.",
  key: "Pass the name of the key in the Transit engine, such as `app`.",
};

/**
 * Percent-encodes a path in Vault for use in a URL, and removes the slashes at both ends of the path.
 *
 * @param name Name of the option that holds the path. Errors show this name.
 * @throws KeywardError `VALUE_INVALID` if the path is empty, or if a part between slashes is empty, `.` or `..`.
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
