import { KeywardError } from "./errors.ts";

/** The texts from which {@link SourceParameters} composes its errors. */
export interface SourceNaming {
  /**
   * The subject of the messages: a name for the text that contains the parameters, such as "The source of the keys".
   */
  readonly subject: string;
  /** The hint of an error that has no hint of its own. */
  readonly hint: string;
}

/**
 * The parameters of a text that names where keys or records are stored, such as `timeoutMs=5000` in
 * `redis://localhost?timeoutMs=5000`. Each method that reads a parameter also removes it. So the parameters that no
 * method has read remain. For packages that make a key provider or a store from such a text.
 *
 * @example
 * const parameters = new SourceParameters("timeoutMs=500", { subject: "The source", hint: "Correct the source." });
 * console.log(parameters.numbers("timeoutMs")); // { timeoutMs: 500 }
 * parameters.requireNothingLeft("redis");
 */
export class SourceParameters {
  readonly #parameters: URLSearchParams;
  readonly #naming: SourceNaming;

  /**
   * Parses the query of a URL into parameters.
   *
   * @param query the query without the question mark, such as `timeoutMs=5000`.
   */
  constructor(query: string, naming: SourceNaming) {
    this.#parameters = new URLSearchParams(query);
    this.#naming = naming;
  }

  /**
   * Returns the value of a parameter; `undefined` if the text does not have the parameter.
   *
   * @throws KeywardError `VALUE_INVALID` if the parameter is empty or appears twice.
   */
  text(name: string): string | undefined {
    const [value, second] = this.#parameters.getAll(name);
    if (second !== undefined)
      throw this.#invalid(`has the parameter "${name}" twice`, "Keep only one of the two values.");
    this.#parameters.delete(name);
    if (value === "")
      throw this.#invalid(`has an empty parameter "${name}"`, `Set "${name}" to a value, or remove the parameter.`);
    return value;
  }

  /** Returns the values of the named parameters. The result omits each parameter that is missing in the source. */
  texts<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: string } {
    return this.#some(names, (text) => text);
  }

  /**
   * Returns the values of the named parameters as numbers. The provider or store checks later whether a number is in
   * range. The result omits each parameter that is missing in the source.
   *
   * @throws KeywardError `VALUE_INVALID` for a value that is not a whole number.
   */
  numbers<Name extends string>(...names: readonly Name[]): { readonly [Key in Name]?: number } {
    return this.#some(names, (text, name) => {
      if (/^[0-9]+$/.test(text)) return Number(text);
      throw this.#invalid(
        `has a parameter "${name}" that is not a whole number`,
        `Write "${name}" in decimal digits only.`,
      );
    });
  }

  /**
   * Checks that the other methods have read every parameter. A parameter that no method reads is unknown.
   *
   * @param scheme the kind of source, such as `redis`, for the error message.
   * @throws KeywardError `VALUE_INVALID` for an unknown parameter.
   */
  requireNothingLeft(scheme: string): void {
    const [name] = this.#parameters.keys();
    if (name === undefined) return;
    // The name may be a secret that was written after a question mark.
    const shown = /^[A-Za-z]{1,32}$/.test(name) ? `"${name}"` : `of ${name.length} characters`;
    throw this.#invalid(
      `has an unknown parameter ${shown} for ${scheme}:`,
      "Correct the name of the parameter, or remove the parameter.",
    );
  }

  #invalid(problem: string, hint = this.#naming.hint): KeywardError {
    return new KeywardError("VALUE_INVALID", `${this.#naming.subject} ${problem}`, { hint });
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
