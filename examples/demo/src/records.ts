import { readFile } from "node:fs/promises";

/** A record of the demo, which the application passes to Keyv. */
export interface DemoRecord {
  readonly key: string;
  readonly value: unknown;
  /** Time to live in milliseconds. Default: no expiry. */
  readonly ttlMs?: number;
}

/**
 * Reads newline-delimited JSON, with `{"key", "value", "ttlMs"?}` on each line. If a line has no `key` and
 * `value`, the whole line is the value of a record, whose key is `record:` and the number of the line.
 */
export async function readRecords(path: string): Promise<readonly DemoRecord[]> {
  const lines = (await readFile(path, "utf8")).split("\n");
  const records = new Map<string, DemoRecord>();
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const record = parseLine(line, index + 1);
    if (records.has(record.key)) throw new Error(`Line ${index + 1}: another line has the same key`);
    records.set(record.key, record);
  }
  if (records.size < 4) throw new Error("The demo needs at least four records");
  return [...records.values()];
}

function parseLine(line: string, number: number): DemoRecord {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    throw new Error(`Line ${number} is not JSON`);
  }
  if (typeof parsed !== "object" || parsed === null || !("key" in parsed) || !("value" in parsed)) {
    return { key: `record:${number}`, value: parsed };
  }
  const { key, value } = parsed;
  const ttlMs: unknown = "ttlMs" in parsed ? parsed.ttlMs : undefined;
  if (typeof key !== "string" || key === "")
    throw new Error(`Line ${number}: the property "key" must be a text that is not empty`);
  if (ttlMs !== undefined && !(typeof ttlMs === "number" && ttlMs > 0)) {
    throw new Error(`Line ${number}: the property "ttlMs" must be a positive number`);
  }
  return ttlMs === undefined ? { key, value } : { key, value, ttlMs };
}
