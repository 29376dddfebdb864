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

  /** True if writing has failed, because the reader of a pipe has exited or a disk is full. */
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

  /** Resolves when everything is written. Rejects if writing fails, because a disk is full or the reader of a pipe has exited. */
  async whole(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#stdout.write("", (error) => (error ? reject(error) : resolve()));
    });
    if (this.#isClosed) throw new Error("The output is closed");
  }
}
