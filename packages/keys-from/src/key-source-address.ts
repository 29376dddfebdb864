import { fileURLToPath } from "node:url";
import { KeywardError } from "@keyward/core";

/** A text that names where keys come from, taken apart. Each parameter is asked for once, and none may be left over. */
export class KeySourceAddress {
  /** What stands before the first colon. */
  readonly scheme: string;
  /** What stands after it, parameters included. */
  readonly rest: string;
  readonly #location: string;
  readonly #parameters: URLSearchParams;

  private constructor(scheme: string, rest: string) {
    this.scheme = scheme;
    this.rest = rest;
    // A name or a path is read whole: a question mark is part of it.
    const question = rest.startsWith("//") && scheme !== "file" ? rest.indexOf("?") : -1;
    this.#location = question === -1 ? rest : rest.slice(0, question);
    this.#parameters = new URLSearchParams(question === -1 ? "" : rest.slice(question + 1));
  }

  /**
   * @throws KeywardError `VALUE_INVALID` for what is no such text, or has another scheme.
   */
  static parse(source: string | undefined, schemes: readonly string[]): KeySourceAddress {
    const hint = `Begin it with one of ${schemes.map((scheme) => `${scheme}:`).join(", ")}.`;
    if (typeof source !== "string" || source.trim() === "")
      throw invalidSource("is empty, or its variable is not set", hint);
    const text = source.trim();
    const colon = text.indexOf(":");
    const scheme = colon === -1 ? "" : text.slice(0, colon);
    // Not repeated in the message: it may be a key that was given in the place of its name.
    if (!schemes.includes(scheme)) throw invalidSource("does not begin with the scheme of a source", hint);
    return new KeySourceAddress(scheme, text.slice(colon + 1));
  }

  /** The path of a file: as it stands, or that of a `file:` URL. */
  path(example: string): string {
    if (this.rest === "") throw invalidSource("has no path", `Name ${example}.`);
    if (!this.rest.startsWith("//")) return this.rest;
    try {
      return fileURLToPath(`file:${this.rest}`);
    } catch {
      throw invalidSource("is not a file: URL of this machine", `Name ${example}.`);
    }
  }

  /** What stands between `//` and the next `/`, which may be empty, and what comes after that, which may not. */
  hostAndPath(example: string): readonly [host: string, path: string] {
    const [, host, path] = /^\/\/([^/]*)\/(.+)$/.exec(this.#location) ?? [];
    if (host === undefined || path === undefined) throw invalidSource("is not complete", `Write it as ${example}.`);
    if (host.includes("@")) {
      throw invalidSource(
        "has a user or a password in it",
        "Take them out: texts like it end up in logs. What a login needs is read from variables.",
      );
    }
    return [decode(host), decode(path)];
  }

  /** The value of a parameter. */
  text(name: string): string | undefined {
    const [value, second] = this.#parameters.getAll(name);
    if (second !== undefined) throw invalidSource(`has the parameter ${name} twice`);
    this.#parameters.delete(name);
    if (value === "") throw invalidSource(`has an empty parameter ${name}`, "Give it a value, or leave it out.");
    return value;
  }

  /** Those of the parameters that are there. */
  texts<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: string } {
    return this.#some(names, (text) => text);
  }

  /** Those of the parameters that are there, as numbers; what range they must be in, the provider knows. */
  numbers<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: number } {
    return this.#some(names, (text, name) => {
      if (/^[0-9]+$/.test(text)) return Number(text);
      throw invalidSource(`has a parameter ${name} that is not a whole number`);
    });
  }

  /**
   * @throws KeywardError `VALUE_INVALID` where a parameter is left that nobody asked for.
   */
  requireNothingLeft(): void {
    const [name] = this.#parameters.keys();
    if (name === undefined) return;
    const shown = /^[A-Za-z]{1,32}$/.test(name) ? name : `of ${name.length} characters`;
    throw invalidSource(
      `has a parameter ${shown}, which ${this.scheme}: does not know`,
      "Correct it, or leave it out.",
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

/** The error for a text that names no source. The text is not in it. */
export function invalidSource(problem: string, hint = "See the README of @keyward/keys-from."): KeywardError {
  return new KeywardError("VALUE_INVALID", `The source of the keys ${problem}`, { hint });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalidSource("has a % that is no escape", "Write it as %25.");
  }
}
