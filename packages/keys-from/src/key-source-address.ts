import { fileURLToPath } from "node:url";
import { KeywardError, SourceParameters } from "@keyward/core";

const subject = "The source of the keys";
const correct = "Correct the source as the README of @keyward/keys-from describes.";

/** A parsed source of keys, such as `vault://secret/app/keyring?auth=approle`. */
export class KeySourceAddress {
  /** The text of the source before the first colon, such as `vault`. */
  readonly scheme: string;
  /** The text of the source after the first colon, including the parameters. */
  readonly rest: string;
  readonly parameters: SourceParameters;
  readonly #location: string;

  private constructor(scheme: string, rest: string) {
    this.scheme = scheme;
    this.rest = rest;
    // Only addresses with `//` have parameters. In a name or a path, a question mark is an ordinary character.
    const question = rest.startsWith("//") && scheme !== "file" ? rest.indexOf("?") : -1;
    this.#location = question === -1 ? rest : rest.slice(0, question);
    this.parameters = new SourceParameters(question === -1 ? "" : rest.slice(question + 1), { subject, hint: correct });
  }

  /**
   * Parses a source of keys, such as `env:APP_KEY`.
   *
   * @throws KeywardError `VALUE_INVALID` if the source is empty or not a string, or does not begin with one of
   * `schemes` and a colon.
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
   * Returns the path in a `file:` source, which is `file:` followed by a path, or a `file:` URL.
   *
   * @param example A valid source, which the hints of errors show.
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
   * Returns two parts of the source, percent-decoded. The host is the text between `//` and the next `/`, and may be
   * empty. The path is the text after this `/`, without the parameters, and must not be empty.
   *
   * @param example A valid source, which the hints of errors show.
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
}

/**
 * Returns the error for an invalid source of keys. The error does not contain the source, which may be a key by
 * mistake.
 */
export function invalidSource(problem: string, hint = correct): KeywardError {
  return new KeywardError("VALUE_INVALID", `${subject} ${problem}`, { hint });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalidSource("has a % that does not begin an escape sequence", "Write a literal % as %25.");
  }
}
