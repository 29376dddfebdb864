import { styleText } from "node:util";
import type { AdminApiError } from "@keyward/admin/client";
import type { KeywardError } from "@keyward/core";
import type { SecretsError } from "@keyward/secrets";
import { CommandError } from "../exit-codes.ts";
import { inCommandTerms } from "./command-terms.ts";
import type { Results } from "./results.ts";
import { inServiceTerms } from "./service-terms.ts";
import { withoutTokens } from "./without-tokens.ts";

/** The streams of the process to which a command writes. */
export interface Streams {
  /** The name of the executable. Each error for people begins with this name. */
  readonly name: "keyward" | "keyward-kv";
  /** The stdout of the process. */
  readonly results: Results;
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
}

/** The flags that set the form of a command's output. */
export interface OutputOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  /** False if `--no-color` is passed. A terminal then shows no colors. */
  readonly color: boolean;
  /** The value of the flag `--env`. The commands in hints need the same flag. */
  readonly env?: string;
}

/** Writes the result, the progress and the errors of a command. */
export class Output {
  readonly #streams: Streams;
  readonly #options: OutputOptions;

  constructor(streams: Streams, options: OutputOptions) {
    this.#streams = streams;
    this.#options = options;
  }

  /** Adds the flag `--env` of this command to each command in a hint, so that those commands use the same environment. */
  hint(text: string): string {
    const { env } = this.#options;
    if (env === undefined) return text;
    return withoutTokens(
      text.replace(/`keyward (?!kv |--)([^`]*)`/g, (_, rest: string) => `\`keyward --env ${env} ${rest}\``),
    );
  }

  /** True if the result is printed as JSON. */
  get isJson(): boolean {
    return this.#options.json;
  }

  /** True if progress may be drawn as a bar, because stderr is a terminal. */
  get showsBars(): boolean {
    return this.#streams.stderr.isTTY === true && !this.#options.quiet;
  }

  /** True if no further result can be written. */
  get isClosed(): boolean {
    return this.#streams.results.isClosed;
  }

  /** True if the result is shown on a terminal, and not written to a pipe or a file. */
  get isShown(): boolean {
    return this.#streams.results.areShown;
  }

  /**
   * Returns text in a style if stderr is a terminal that shows colors. Returns the text unchanged otherwise, or with
   * `--no-color`.
   */
  styled(style: "red" | "yellow" | "green" | "bold", text: string): string {
    if (!this.#options.color || this.#streams.stderr.isTTY !== true) return text;
    // This also respects the environment variable NO_COLOR.
    return styleText(style, text, { stream: process.stderr });
  }

  /** Writes the result of a command to stdout: `text` for people, or `data` as one line of JSON. */
  result(text: string, data: object): void {
    this.#streams.results.write(
      this.#options.json ? `${jsonOf(data)}\n` : text === "" ? "" : `${withoutSteering(text)}\n`,
    );
  }

  /**
   * Resolves when the results are written. Call this method for a result that cannot be printed again.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if stdout cannot be written.
   */
  async resultsAreWritten(): Promise<void> {
    await this.#streams.results.whole().catch(async (cause: unknown) => {
      const { KeywardError } = await import("@keyward/core");
      throw new KeywardError(
        "PROVIDER_UNAVAILABLE",
        "The tokens cannot be printed, so the service does not accept them",
        {
          hint: "Check that the disk is not full, and that the program that reads the output is running. Then run the command again.",
          cause,
        },
      );
    });
  }

  /**
   * Writes a result that replaces the former result of the same command. On a terminal, clears the screen first.
   * Otherwise appends the result. With `--json`, appends one line for each result.
   */
  redraw(text: string, data: object): void {
    const isScreen = this.isShown && !this.#options.json;
    // Moves to the first line and erases what is below, without the flicker of erasing each line.
    if (isScreen) this.#streams.results.write(`\u001b[H\u001b[J${withoutSteering(text)}\n`);
    else this.result(`${text}\n`, data);
  }

  /** Writes a line about the progress of a command to stderr. */
  progress(line: string): void {
    if (!this.#options.quiet) this.#streams.stderr.write(`${withoutTokens(withoutSteering(line))}\n`);
  }

  /** Writes a line to stderr that the operator must see, even with `--quiet`. */
  notice(line: string): void {
    this.#streams.stderr.write(`${withoutTokens(withoutSteering(line))}\n`);
  }

  /** Writes to stderr an error that the result on stdout already shows. Writes nothing with `--json`. */
  problem(error: KeywardError): void {
    if (!this.#options.json) this.error(error);
  }

  /**
   * Writes an error: its message and hint to stderr, or with `--json` one line of JSON to stdout. If stdout has the result
   * of the command already, the error is written to stderr, because a script reads one line.
   */
  error(error: unknown): void {
    const isWritten = this.errorLine(error);
    if (!isExpected(error)) {
      this.#streams.stderr.write(`${this.#streams.name}: ${faultOf(error)}\n`);
      return;
    }
    if (isWritten) return;
    const { code, message, hint } = errorResult(error);
    const text = withoutSteering(`${message} (${code})\n${hint}`);
    this.#streams.stderr.write(`${this.styled("red", `${this.#streams.name}:`)} ${text}\n`);
  }

  /** With `--json`, writes an error to stdout, unless stdout has the result already. Returns whether it was written. */
  errorLine(error: unknown): boolean {
    if (!this.#options.json || this.#streams.results.areWritten) return false;
    const result = errorResult(error);
    this.#streams.results.write(`${jsonOf({ error: { ...result, hint: this.hint(result.hint) } })}\n`);
    return true;
  }
}

/** An error as `--json` prints it. */
export interface ErrorResult {
  /** A code of `KeywardErrorCode`, `SecretsErrorCode`, `CommandErrorCode`, or of the admin API. */
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  /** The id of the key that caused the error; `null` if no single key caused it. */
  readonly keyId: string | null;
  /** The number of records that caused the error, by the name of their store; `null` for an error without such counts. */
  readonly recordsByStore: Readonly<Record<string, number>> | null;
  /** The id of the request that the admin API refused. The log of the API contains this id. `null` for any other error. */
  readonly requestId: string | null;
  /** After how many milliseconds the request may be sent again; `null` if the admin API did not say so. */
  readonly retryAfterMs: number | null;
}

/** Returns an error as `--json` prints it, in the terms of the command line. */
export function errorResult(error: unknown): ErrorResult {
  if (!isExpected(error)) {
    return { code: "UNEXPECTED", message: faultOf(error), hint: reportFault, ...withoutDetails };
  }
  const { code } = error;
  const shown = (text: string) => withoutTokens(inCommandTerms(inServiceTerms(text)));
  const texts = { message: shown(error.message), hint: shown(error.hint) };
  if (isAdminApiError(error)) {
    const { requestId = null, retryAfterSeconds } = error;
    const retryAfterMs = retryAfterSeconds === undefined ? null : retryAfterSeconds * 1_000;
    // Another server at the URL of the service could add lines of its own to the output.
    const inLine = { message: oneLine(texts.message), hint: oneLine(texts.hint) };
    return { code, ...inLine, ...withoutDetails, requestId, retryAfterMs };
  }
  const keyId = "keyId" in error ? (error.keyId ?? null) : null;
  const recordsByStore = "counts" in error ? (error.counts ?? null) : null;
  return { code, ...texts, ...withoutDetails, keyId, recordsByStore };
}

const withoutDetails = { keyId: null, recordsByStore: null, requestId: null, retryAfterMs: null } as const;

const reportFault = "Run the command again with the latest release of keyward. If the fault stays, report it.";

type ExpectedError = KeywardError | SecretsError | AdminApiError | CommandError;

function isExpected(error: unknown): error is ExpectedError {
  return error instanceof CommandError || isLinkedError(error) || isAdminApiError(error);
}

function faultOf(error: unknown): string {
  // The message of another library may contain a secret.
  const name = error instanceof Error ? error.name : "a value that is not an Error";
  return `${name} was thrown. This is a fault of keyward or of one of its packages.`;
}

// These functions do not use `instanceof`, because loading the classes of the errors would take time.

function isLinkedError(error: unknown): error is KeywardError | SecretsError {
  return error instanceof Error && "link" in error && String(error.link).startsWith("docs/errors.md#");
}

function isAdminApiError(error: unknown): error is AdminApiError {
  return error instanceof Error && error.name === "AdminApiError" && "code" in error && "hint" in error;
}

/** Returns data as one line of JSON. Control characters, which could steer a terminal, are escaped. */
export function jsonOf(data: unknown): string {
  return JSON.stringify(data).replace(/[\u007f-\u009f]/g, (one) => `\\u00${one.charCodeAt(0).toString(16)}`);
}

/** Returns rows as text with aligned columns. Control characters, which could steer a terminal, are escaped. */
export function table(given: readonly (readonly string[])[]): string {
  const rows = given.map((row) => row.map(oneLine));
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Returns a name that a store or a process chose, in quotes. Control characters, which could steer a terminal, are escaped. */
export function shownName(name: string): string {
  return oneLine(JSON.stringify(name));
}

/** Returns a text from another machine as one line. Control characters, which could steer a terminal, are escaped. */
export function oneLine(text: string): string {
  return text.replace(/\p{Cc}/gu, escaped);
}

/** The characters after the escape character in the colors of {@link Output.styled}. */
const color = /^\[\d{1,2}m/;

/**
 * Returns lines without control characters, which could steer a terminal: a name from a store may contain them. Keeps the
 * ends of lines, tabs, and the colors of {@link Output.styled}.
 */
function withoutSteering(lines: string): string {
  return lines.replace(/[^\P{Cc}\n\t]/gu, (found, at: number) =>
    found === "\u001b" && color.test(lines.slice(at + 1, at + 5)) ? found : escaped(found),
  );
}

function escaped(character: string): string {
  return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
}
