import { fileURLToPath } from "node:url";
import { KeywardError } from "@keyward/core";

/**
 * A parsed source of keys, such as `vault://secret/app/keyring?auth=approle`. A parameter that was read is removed, so that
 * unknown parameters remain.
 */
export class KeySourceAddress {
  /** The text before the first colon. */
  readonly scheme: string;
  /** The text after the first colon, including parameters. */
  readonly rest: string;
  readonly #location: string;
  readonly #parameters: URLSearchParams;

  private constructor(scheme: string, rest: string) {
    this.scheme = scheme;
    this.rest = rest;
    // Only addresses with `//` have parameters. In a name or a path, a question mark is an ordinary character.
    const question = rest.startsWith("//") && scheme !== "file" ? rest.indexOf("?") : -1;
    this.#location = question === -1 ? rest : rest.slice(0, question);
    this.#parameters = new URLSearchParams(question === -1 ? "" : rest.slice(question + 1));
  }

  /**
   * Parses a source.
   *
   * @throws KeywardError `VALUE_INVALID` if the source is empty or not a string, or does not begin with one of the schemes.
   */
  static parse(source: string | undefined, schemes: readonly string[]): KeySourceAddress {
    const hint = `Begin the source with one of ${schemes.map((scheme) => `${scheme}:`).join(", ")}. If the source comes from an environment variable, check that the environment variable is set.`;
    if (typeof source !== "string" || source.trim() === "") throw invalidSource("is undefined or empty", hint);
    const text = source.trim();
    const colon = text.indexOf(":");
    const scheme = colon === -1 ? "" : text.slice(0, colon);
    // The message does not repeat the text, which may be a key by mistake.
    if (!schemes.includes(scheme)) throw invalidSource("does not begin with a known scheme", hint);
    return new KeySourceAddress(scheme, text.slice(colon + 1));
  }

  /**
   * Returns the path of a file. The source may be `file:` and a path, or a `file:` URL.
   *
   * @param example A valid source, for the hints of errors.
   */
  path(example: string): string {
    if (this.rest === "") throw invalidSource("has no path", `Write a path after "file:", such as ${example}.`);
    if (!this.rest.startsWith("//")) return this.rest;
    try {
      return fileURLToPath(`file:${this.rest}`);
    } catch {
      throw invalidSource("is a file: URL that names no path on this machine", `Write a path, such as ${example}.`);
    }
  }

  /**
   * Returns two decoded parts of the source: the text between `//` and the next `/`, which may be empty, and the text after
   * that slash, which may not be empty.
   *
   * @param example A valid source, for the hints of errors.
   */
  hostAndPath(example: string): readonly [host: string, path: string] {
    const [, host, path] = /^\/\/([^/]*)\/(.+)$/.exec(this.#location) ?? [];
    if (host === undefined || path === undefined)
      throw invalidSource("is incomplete", `Write the source as ${example}.`);
    if (host.includes("@")) {
      throw invalidSource(
        "contains a user name or a password",
        "Remove the user name and the password, because the source may be logged. Set credentials in environment variables.",
      );
    }
    return [decode(host), decode(path)];
  }

  /** Returns the value of a parameter; `undefined` if the source does not have it. */
  text(name: string): string | undefined {
    const [value, second] = this.#parameters.getAll(name);
    if (second !== undefined)
      throw invalidSource(`has the parameter "${name}" twice`, `Keep only one of the two values.`);
    this.#parameters.delete(name);
    if (value === "")
      throw invalidSource(`has an empty parameter "${name}"`, `Set "${name}" to a value, or remove the parameter.`);
    return value;
  }

  /** Returns the values of these parameters. Parameters that the source does not have are left out. */
  texts<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: string } {
    return this.#some(names, (text) => text);
  }

  /**
   * Returns the values of these parameters as numbers, whose range the provider checks. Parameters that the source does not
   * have are left out.
   */
  numbers<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: number } {
    return this.#some(names, (text, name) => {
      if (/^[0-9]+$/.test(text)) return Number(text);
      throw invalidSource(
        `has a parameter "${name}" that is not a whole number`,
        `Write "${name}" in decimal digits only.`,
      );
    });
  }

  /**
   * Checks that every parameter has been read.
   *
   * @throws KeywardError `VALUE_INVALID` for an unknown parameter.
   */
  requireNothingLeft(): void {
    const [name] = this.#parameters.keys();
    if (name === undefined) return;
    const shown = /^[A-Za-z]{1,32}$/.test(name) ? `"${name}"` : `of ${name.length} characters`;
    throw invalidSource(
      `has an unknown parameter ${shown} for ${this.scheme}:`,
      "Correct the name of the parameter, or remove the parameter.",
    );
  }

  #some<Name extends string, Value>(
    names: readonly Name[],
    read: (text: string, name: Name) => Value,
  ): { readonly [Key in Name]?: Value } {
    const found: { [Key in Name]?: Value } = {};
    for (const name of names) {
      const text = this.text(name);
      if (text !== undefined) found[name] = read(text, name);
    }
    return found;
  }
}

/** Returns the error for an invalid source. The error does not contain the text of the source. */
export function invalidSource(
  problem: string,
  hint = "Correct the source as the README of @keyward/keys-from describes.",
): KeywardError {
  return new KeywardError("VALUE_INVALID", `The source of the keys ${problem}`, { hint });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalidSource("has a % that does not begin an escape sequence", "Write a literal % as %25.");
  }
}
