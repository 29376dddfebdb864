import { type BulkFigures, bulkName } from "./bulk.ts";
import { type CallFigures, callsName, type ManyServersFigures, manyServersName } from "./calls.ts";
import { cryptoBeside, withKeyvsJson } from "./keyv-tasks.ts";
import { type LazyFigures, lazyName } from "./lazy-reads.ts";
import type { Figures } from "./rounds.ts";
import { type ScopeFigures, scopesName } from "./scopes.ts";
import { type StartFigures, startName } from "./start-times.ts";
import { type WorkspaceCallFigures, workspaceCallsName } from "./workspace-calls.ts";

/** The measurements of a task. */
export interface Measured {
  readonly name: string;
  readonly sizeBytes: number;
  readonly variants: readonly Figures[];
}

/**
 * Returns a Markdown table of one task at several sizes: the time of the first variant, and the ratios of the other
 * variants to that time. If node:crypto is among the variants, the last column divides the time that Keyward adds by
 * the time that node:crypto adds.
 */
export function timesTable(tasks: readonly Measured[]): string {
  const [first] = tasks;
  if (first === undefined) return "";
  const rows = tasks.map(({ sizeBytes, variants }) => {
    const [baseline, ...others] = variants;
    const crypto = variants.find(({ name }) => name === cryptoBeside);
    const encryption = variants.find(({ name }) => name === withKeyvsJson);
    return [
      size(sizeBytes),
      duration(baseline?.medianNs ?? Number.NaN),
      ...others.map(({ ratio, ratioQuartiles: [low, high] }) => `${short(ratio)} (${short(low)}–${short(high)})`),
      ...(crypto === undefined ? [] : [short((encryption?.addedNs ?? Number.NaN) / crypto.addedNs)]),
    ];
  });
  const names = first.variants.map(({ name }) => name);
  const header = ["", ...names, ...(names.includes(cryptoBeside) ? ["Keyward adds, in node:crypto"] : [])];
  return `\n${first.name}\n\n${table(header, rows)}`;
}

/** Returns a Markdown table of the sizes at rest, in bytes, with "plain" first. */
export function bytesTable(sizes: readonly Readonly<Record<string, number>>[]): string {
  const rows = sizes.map((atRest) => Object.values(atRest).map((bytes) => bytes.toLocaleString("en")));
  return `\nbytes at rest\n\n${table(Object.keys(sizes[0] ?? {}), rows)}`;
}

/** Returns a Markdown table of bulk re-encryption. */
export function bulkTable(figures: readonly BulkFigures[]): string {
  const rows = figures.map((each) => [
    each.records.toLocaleString("en"),
    Math.round(each.copiedPerSecond).toLocaleString("en"),
    short(each.toCopy),
    `${each.cpuUsPerRecord.toFixed(1)} µs`,
    each.rewrap === undefined ? "" : Math.round(each.rewrap.perSecond).toLocaleString("en"),
    each.rewrap === undefined ? "" : short(each.rewrap.timesAsFast),
    `${Math.round(each.peakRssBytes / 2 ** 20)} MiB`,
    `${Math.round(each.peakHeapBytes / 2 ** 20)} MiB`,
  ]);
  const header = [
    "records",
    "copied per second",
    "re-encrypted, rate",
    "CPU per record",
    "Transit rewraps per second",
    "re-encrypted, to Transit",
    "peak memory",
    "peak heap",
  ];
  return `\n${bulkName}\n\n${table(header, rows)}`;
}

/** Returns a Markdown table of reads with and without lazy re-encryption. */
export function lazyTable(figures: readonly LazyFigures[]): string {
  const rows = figures.map(({ load, reads, offNs, onNs }) => [
    load,
    reads.toLocaleString("en"),
    duration(offNs.p50),
    short(onNs.p50 / offNs.p50),
    duration(offNs.p99),
    short(onNs.p99 / offNs.p99),
  ]);
  const header = ["reads", "count", "p50, off", "p50, on-read", "p99, off", "p99, on-read"];
  return `\n${lazyName}\n\n${table(header, rows)}`;
}

/** Returns a Markdown table of rotations with many scopes and with one scope. */
export function scopesTable(figures: readonly ScopeFigures[]): string {
  const rows = figures.map(({ layout, scopes, records, oneScopeUs, ratio }) => [
    layout,
    scopes.toLocaleString("en"),
    records.toLocaleString("en"),
    `${oneScopeUs.elapsed.toFixed(1)} µs`,
    short(ratio.elapsed),
    `${oneScopeUs.cpu.toFixed(1)} µs`,
    short(ratio.cpu),
  ]);
  const header = [
    "records",
    "scopes",
    "count",
    "per record, one scope",
    "many scopes",
    "CPU, one scope",
    "CPU, many scopes",
  ];
  return `\n${scopesName}\n\n${table(header, rows)}`;
}

/** Returns the table of how long `keyward` takes to start. */
export function startsTable(figures: readonly StartFigures[]): string {
  const rows = figures.map(({ commandLine, medianMs, ratio }) => [
    commandLine,
    `${medianMs.toFixed(0)} ms`,
    short(ratio),
  ]);
  return `\n${startName}\n\n${table(["command line", "median", "ratio"], rows)}`;
}

/** Returns the table of calls: beside the bare proxy, beside the direct call, and with redaction beside without. */
export function callsTable(figures: readonly CallFigures[]): string {
  const rows = figures.map(({ answer, contender, cpuUs, perSecond, p50Ms, toProxy, toDirect, toPlain }) => {
    const isDirect = contender === "direct";
    return [
      answer,
      contender,
      isDirect ? "" : `${cpuUs.toFixed(0)} µs`,
      isDirect ? "" : short(toProxy.cpu),
      Math.round(perSecond).toLocaleString("en"),
      short(toProxy.perSecond),
      short(toDirect.perSecond),
      `${p50Ms.toFixed(1)} ms`,
      short(toProxy.p50),
      short(toDirect.p50),
      toPlain === undefined ? "" : short(toPlain.cpu),
    ];
  });
  const header = [
    ...["answer", "", "CPU per call", "CPU, to proxy", "calls per second", "rate, to proxy", "rate, to direct"],
    ...["p50", "p50, to proxy", "p50, to direct", "CPU, with redaction to without"],
  ];
  return `\n${callsName}\n\n${table(header, rows)}`;
}

/** Returns the table of calls in workspaces with few servers and with many. */
export function manyServersTable(figures: readonly ManyServersFigures[]): string {
  const rows = figures.map(({ servers, called, cpuUs, ratio }) => [
    servers.toLocaleString("en"),
    called,
    `${cpuUs.toFixed(0)} µs`,
    short(ratio.cpu),
    short(ratio.perSecond),
    short(ratio.p50),
  ]);
  const header = ["servers", "called", "CPU per call", "CPU, to 10", "rate, to 10", "p50, to 10"];
  return `\n${manyServersName}\n\n${table(header, rows)}`;
}

/** Returns the table of calls through the endpoint of a workspace. */
export function workspaceCallsTable(figures: readonly WorkspaceCallFigures[]): string {
  const rows = figures.map(({ request, endpoint, cpuUs, p50Ms, ratio }) => [
    ...[request, endpoint, `${cpuUs.toFixed(0)} µs`, ratio === undefined ? "" : short(ratio.cpu)],
    ...[`${p50Ms.toFixed(1)} ms`, ratio === undefined ? "" : short(ratio.p50)],
  ]);
  const header = ["request", "endpoint", "CPU per call", "CPU, ratio", "p50", "p50, ratio"];
  return `\n${workspaceCallsName}\n\n${table(header, rows)}`;
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
