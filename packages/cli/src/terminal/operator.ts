import { setTimeout as sleep } from "node:timers/promises";
import { CommandError, Interrupted } from "../exit-codes.ts";

/** The streams of the operator's terminal, such as `process.stdin` and `process.stderr`. */
export interface OperatorStreams {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean };
}

const pasteMs = 50;
/** The byte that a terminal sends for Ctrl-D. */
const endOfInput = 0x04;

/** Asks questions of the operator, the person who runs a command. Prints questions on stderr. Needs a terminal. */
export class Operator {
  readonly #streams: OperatorStreams;
  readonly #yes: boolean;
  readonly #signal: AbortSignal;

  /** @param yes true if the flag `--yes` answers every confirmation. */
  constructor(streams: OperatorStreams, { yes, signal }: { readonly yes: boolean; readonly signal: AbortSignal }) {
    this.#streams = streams;
    this.#yes = yes;
    this.#signal = signal;
  }

  /** True if questions can be asked, because stdin and stderr are a terminal. */
  get isPresent(): boolean {
    return this.#streams.stdin.isTTY === true && this.#streams.stderr.isTTY === true;
  }

  /**
   * Asks the operator to confirm a change that cannot be undone. Returns when the change is confirmed, on the terminal or
   * with `--yes`.
   *
   * @param consequence what the command would do, as a sentence with "would". The error without a terminal contains this
   * sentence.
   * @param otherwise the end of the error for a missing confirmation: what the command did not do.
   * @throws CommandError `NOT_CONFIRMED` if the operator answers no, or if there is no terminal.
   */
  async confirm(consequence: string, otherwise = "nothing was changed"): Promise<void> {
    if (this.#yes) return;
    if (!this.isPresent) {
      throw new CommandError("NOT_CONFIRMED", `${consequence} This was not confirmed, so ${otherwise}`, {
        hint: "To confirm it without a terminal, add `--yes`.",
      });
    }
    const { default: confirm } = await import("@inquirer/confirm");
    const question = { message: `${consequence} Go on?`, default: false };
    if (await this.#answer((context) => confirm(question, context))) return;
    throw new CommandError("NOT_CONFIRMED", `The answer was no, so ${otherwise}`, {
      hint: "To answer yes, run the command again.",
    });
  }

  /** Asks for one line of text. Returns `fallback` for an empty answer. */
  async ask(question: string, fallback: string): Promise<string> {
    const { default: input } = await import("@inquirer/input");
    return await this.#answer((context) => input({ message: question, default: fallback }, context));
  }

  /**
   * Asks for a secret. The terminal does not show the secret, and no keystroke can make it visible.
   *
   * @throws CommandError `USAGE` if several lines are pasted: the first line alone would be the wrong secret, and the shell
   * would run the others.
   */
  async askSecret(question: string): Promise<string> {
    const { default: password } = await import("@inquirer/password");
    const { stdin } = this.#streams;
    let typed = "";
    const onData = (data: string | Uint8Array) => {
      typed += Buffer.from(data).toString("latin1");
    };
    stdin.on("data", onData);
    try {
      const answer = await this.#answer((context) => password({ message: question, toggleMask: false }, context));
      // A terminal may pass a paste on in several pieces.
      stdin.resume();
      await sleep(pasteMs);
      if (!/[\r\n][^\r\n]/.test(typed)) return answer;
    } finally {
      typed = "";
      stdin.off("data", onData);
      stdin.pause();
    }
    throw new CommandError("USAGE", "The answer has more than one line, so nothing was stored", {
      hint: "Check that you have copied only the secret. A secret has one line: encode a longer one, such as with base64.",
    });
  }

  /** Returns an answer. If the operator presses Ctrl-C or Ctrl-D, rejects as for a signal. */
  async #answer<Answer>(prompt: (context: PromptContext) => Promise<Answer>): Promise<Answer> {
    const { stdin, stderr } = this.#streams;
    const ended = new AbortController();
    // After Ctrl-D the terminal sends nothing more, so the question would never end.
    const onData = (data: string | Uint8Array) => {
      if (Buffer.from(data).includes(endOfInput)) ended.abort();
    };
    const onEnd = () => ended.abort();
    stdin.on("data", onData);
    stdin.once("end", onEnd);
    try {
      return await prompt({ input: stdin, output: stderr, signal: AbortSignal.any([this.#signal, ended.signal]) });
    } catch (error) {
      this.#signal.throwIfAborted();
      const isStopped = ended.signal.aborted || (error instanceof Error && error.name === "ExitPromptError");
      throw isStopped ? new Interrupted() : error;
    } finally {
      stdin.off("data", onData);
      stdin.off("end", onEnd);
    }
  }
}

interface PromptContext {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
  readonly signal: AbortSignal;
}
