/** The stdout of a command, for its result. Remembers whether a result was written. */
export class Results {
  readonly #stdout: NodeJS.WritableStream & { readonly isTTY?: boolean };
  #areWritten = false;
  #isClosed = false;

  constructor(stdout: NodeJS.WritableStream & { readonly isTTY?: boolean }) {
    this.#stdout = stdout;
    stdout.on("error", () => {
      this.#isClosed = true;
    });
  }

  /** True if nothing can be written any longer, because the reader of a pipe has ended or a disk is full. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** True if a result was written. */
  get areWritten(): boolean {
    return this.#areWritten;
  }

  /** True if the result is shown on a terminal. */
  get areShown(): boolean {
    return this.#stdout.isTTY === true;
  }

  write(text: string): void {
    this.#areWritten = true;
    this.#stdout.write(text);
  }
}
