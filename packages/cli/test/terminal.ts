import { stripVTControlCharacters } from "node:util";
import { type IPty, spawn } from "@lydell/node-pty";
import { expect, onTestFinished } from "vitest";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { executable } from "./keyward-process.ts";

/** `keyward` on a terminal of its own, which a test reads and types on. The test ends the command. */
export class Terminal {
  readonly #pty: IPty;
  readonly #ended: Promise<number>;
  #printed = "";

  constructor(cwd: string, env: Readonly<Record<string, string>>, ...commandLine: readonly string[]) {
    const flags = ["--conditions", "development", executable, ...commandLine];
    this.#pty = spawn(process.execPath, flags, {
      cwd,
      env: commandEnvironment({ TERM: "xterm-256color", ...env }),
      cols: 120,
      rows: 40,
    });
    this.#pty.onData((text) => {
      this.#printed += text;
    });
    this.#ended = new Promise((resolve) => this.#pty.onExit(({ exitCode }) => resolve(exitCode)));
    onTestFinished(() => {
      try {
        this.#pty.kill("SIGKILL");
      } catch {
        // The command has ended already.
      }
    });
  }

  /** What the command has printed, with its control characters. */
  get printed(): string {
    return this.#printed;
  }

  /** What the command has printed, without colors and movements of the cursor. */
  get text(): string {
    return stripVTControlCharacters(this.#printed).replaceAll("\r\n", "\n");
  }

  /** Waits until the command has printed a text. */
  async waitFor(text: string | RegExp): Promise<void> {
    await expect.poll(() => this.text, { timeout: 60_000 }).toMatch(text);
  }

  /** Waits for a question, and types the answer. */
  async answer(question: string | RegExp, text: string): Promise<void> {
    await this.waitFor(question);
    this.#pty.write(`${text}\r`);
  }

  /** Types a key, such as Ctrl-C (`\x03`). */
  press(key: string): void {
    this.#pty.write(key);
  }

  /** Sends a signal to the command. */
  signal(name: "SIGINT" | "SIGTERM"): void {
    this.#pty.kill(name);
  }

  /** Closes the terminal, as a lost connection to a remote machine does. */
  close(): void {
    this.#pty.kill("SIGHUP");
  }

  /** Waits for the end of the command, and returns its exit code. */
  async end(): Promise<number> {
    return await this.#ended;
  }
}
