import type { Figures } from "./rounds.ts";

/** A task after it was measured. */
export interface Measured {
  readonly name: string;
  readonly sizeBytes: number;
  readonly contestants: readonly Figures[];
}

/** A Markdown table of one task at several sizes: the time of the first contestant, and how often it fits in the others'. */
export function timesTable(tasks: readonly Measured[]): string {
  const [first] = tasks;
  if (first === undefined) return "";
  const rows = tasks.map(({ sizeBytes, contestants: [baseline, ...others] }) => [
    size(sizeBytes),
    duration(baseline?.medianNs ?? Number.NaN),
    ...others.map(({ ratio, ratioQuartiles: [low, high] }) => `${short(ratio)} (${short(low)}–${short(high)})`),
  ]);
  return `\n${first.name}\n\n${table(["", ...first.contestants.map(({ name }) => name)], rows)}`;
}

/** A Markdown table of what lies at rest, in bytes, "plain" first. */
export function bytesTable(sizes: readonly Readonly<Record<string, number>>[]): string {
  const rows = sizes.map((atRest) => Object.values(atRest).map((bytes) => bytes.toLocaleString("en")));
  return `\nbytes at rest\n\n${table(Object.keys(sizes[0] ?? {}), rows)}`;
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, 3, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell.padStart(widths[column] ?? 0)).join(" | ")} |`;
  const rule = `|${widths.map((width) => `${"-".repeat(width + 1)}:`).join("|")}|`;
  return [line(header), rule, ...rows.map(line)].join("\n");
}

function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 2 ** 20 ? `${bytes / 1024} KiB` : `${bytes / 2 ** 20} MiB`;
}

function duration(ns: number): string {
  return ns < 1e6 ? `${(ns / 1e3).toPrecision(3)} µs` : `${(ns / 1e6).toPrecision(3)} ms`;
}

function short(ratio: number): string {
  return ratio < 10 ? ratio.toFixed(2) : ratio.toFixed(ratio < 100 ? 1 : 0);
}
