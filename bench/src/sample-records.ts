import type { RecordAddress } from "@keyward/core";

/** Text with the address under which a store keeps it. */
export interface SampleRecord {
  readonly address: RecordAddress;
  readonly text: string;
}

/** The letters of a sample: only ASCII, or also letters that take two to four bytes of UTF-8. */
export type Script = "ascii" | "multilingual";

const words = {
  ascii: ["checkout", "pending approval", "tools/call", "refund", "https://example.com/flows"],
  multilingual: ["Zahlung bestätigt", "承認待ち", "возврат", "café crème", "🔐 terminé"],
};

/** Options of {@link sampleRecords}. */
export interface SampleOptions {
  /** The letters of the text. Default: "ascii". */
  readonly script?: Script;
  /** Number of records. Default: enough for about 4 MiB, between 4 and 64. */
  readonly count?: number;
}

/** Returns records whose text is JSON of exactly `sizeBytes` bytes. No two are alike, and every run has the same. */
export function sampleRecords(sizeBytes: number, options: SampleOptions = {}): SampleRecord[] {
  const { script = "ascii", count = Math.min(64, Math.max(4, Math.floor(2 ** 22 / sizeBytes))) } = options;
  return Array.from({ length: count }, (_, index) => ({
    address: { namespace: "flows", key: `session:${String(index).padStart(6, "0")}` },
    text: sampleText(sizeBytes, words[script], index),
  }));
}

function sampleText(sizeBytes: number, vocabulary: readonly string[], seed: number): string {
  const beginning = `{"id":${seed}`;
  const ending = `,"note":""}`;
  const fields: string[] = [];
  let room = sizeBytes - beginning.length - ending.length;
  for (let index = 0; ; index++) {
    // A multiplier coprime to the modulus gives numbers that look random and are the same in every run.
    const number = ((index + 1) * 48_271 + seed * 7_919) % 99_991;
    const field = `,"s${index}":{"at":${number},"state":"${vocabulary[number % vocabulary.length]}"}`;
    room -= Buffer.byteLength(field);
    if (room < 0) return `${beginning}${fields.join("")},"note":"${"x".repeat(room + Buffer.byteLength(field))}"}`;
    fields.push(field);
  }
}
