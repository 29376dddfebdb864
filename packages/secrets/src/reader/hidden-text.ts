import { inspect } from "node:util";

/** A text that is not shown by `console.log`, `JSON.stringify`, templates or `inspect`: they show a label instead. */
export abstract class HiddenText {
  readonly #text: string;
  readonly #label: string;

  constructor(text: string, label: string) {
    this.#text = text;
    this.#label = label;
  }

  /** Returns the text. */
  protected get text(): string {
    return this.#text;
  }

  toString(): string {
    return this.#label;
  }

  toJSON(): string {
    return this.#label;
  }

  [inspect.custom](): string {
    return this.#label;
  }
}
