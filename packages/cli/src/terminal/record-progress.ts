import { census, type EncryptedStore, type ReencryptProgress } from "@keyward/core";
import type { SingleBar } from "cli-progress";
import type { Output } from "./output.ts";

// A line for each page of records would fill a log.
const lineEveryMs = 1_000;
const barFormat = "  {store} {bar} {value} of {total} records, {rate} per second, {eta_formatted} left";

/**
 * Shows how far a job over the records of stores is, one store after the other. On a terminal: a bar with the rate and
 * the remaining time, as soon as the records of the store are counted. Otherwise: a line at most each second.
 */
export class RecordProgress {
  readonly #output: Output;
  readonly #stores: Readonly<Record<string, EncryptedStore>>;
  readonly #newBar: (() => SingleBar) | undefined;
  #shown: StoreProgress | undefined;
  /** The last line, if it was not printed; otherwise `undefined`. */
  #latest: string | undefined;
  /** When the last line was printed, in milliseconds since the epoch. */
  #printedAtMs = Date.now();

  /** @param newBar makes a bar; `undefined` if lines are shown. */
  private constructor(
    output: Output,
    stores: Readonly<Record<string, EncryptedStore>>,
    newBar: (() => SingleBar) | undefined,
  ) {
    this.#output = output;
    this.#stores = stores;
    this.#newBar = newBar;
  }

  /** Loads the library that draws bars if stderr is a terminal. */
  static async load(output: Output, stores: Readonly<Record<string, EncryptedStore>>): Promise<RecordProgress> {
    if (!output.showsBars) return new RecordProgress(output, stores, undefined);
    const { Presets, SingleBar } = await import("cli-progress");
    // On a signal, the command ends itself after its current call, so the library must not end the process.
    const options = { format: barFormat, stream: process.stderr, clearOnComplete: true, gracefulExit: false };
    return new RecordProgress(output, stores, () => new SingleBar(options, Presets.shades_classic));
  }

  /** Shows how many records of a store the job has read. */
  show(store: string, progress: ReencryptProgress): void {
    if (this.#shown?.store !== store) {
      this.end();
      this.#shown = { store, progress, bar: undefined, counting: new AbortController() };
      if (this.#newBar !== undefined) void this.#startBar(this.#shown, this.#newBar);
    }
    this.#shown.progress = progress;
    if (this.#newBar === undefined) this.line(lineOf(this.#shown));
    else this.#shown.bar?.update(progress.scanned, { rate: Math.round(progress.ratePerSecond) });
  }

  /** Prints a line of progress, at most one a second. A newer line replaces a line that was not printed yet. */
  line(text: string): void {
    this.#latest = text;
    if (Date.now() - this.#printedAtMs < lineEveryMs) return;
    this.#printedAtMs = Date.now();
    this.#printLatest();
  }

  /** Removes the bar, and prints the last line if it was not printed yet. Call this method before printing another line. */
  end(): void {
    if (this.#shown !== undefined) {
      this.#shown.counting.abort();
      this.#shown.bar?.stop();
      if (this.#newBar !== undefined) this.#latest = lineOf(this.#shown);
      this.#shown = undefined;
    }
    this.#printLatest();
    this.#printedAtMs = Date.now();
  }

  #printLatest(): void {
    if (this.#latest !== undefined) this.#output.progress(this.#latest);
    this.#latest = undefined;
  }

  async #startBar(shown: StoreProgress, newBar: () => SingleBar): Promise<void> {
    const inner = this.#stores[shown.store];
    if (inner === undefined) return;
    // The bar is only shown if the count succeeds. The job itself reports what is wrong with the store.
    const counted = await census(inner, { signal: shown.counting.signal }).catch(() => undefined);
    if (counted === undefined || this.#shown !== shown) return;
    const { scanned, ratePerSecond } = shown.progress;
    shown.bar = newBar();
    shown.bar.start(counted.records, scanned, { store: shown.store, rate: Math.round(ratePerSecond) });
  }
}

interface StoreProgress {
  readonly store: string;
  /** Stops the count of the records. */
  readonly counting: AbortController;
  progress: ReencryptProgress;
  bar: SingleBar | undefined;
}

function lineOf({ store, progress: { scanned, reencrypted, ratePerSecond } }: StoreProgress): string {
  return `  ${store}: ${scanned === 1 ? "1 record" : `${scanned} records`}, ${reencrypted} re-encrypted, ${Math.round(ratePerSecond)} per second`;
}
