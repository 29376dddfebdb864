import { sampleRecords } from "./sample-records.ts";

/** An answer of the server that the bench calls. The name of the answer is the path under which the server returns it. */
export interface CallAnswer {
  readonly name: string;
  readonly title: string;
  readonly contentType: string;
  /** The parts of the body. The server writes each part at once. A stream of events has a part for each event. */
  readonly parts: readonly Buffer[];
}

/** The answers in the order of their table. */
export const callAnswers: readonly CallAnswer[] = [
  json("1-kib", "1 KiB", 1_024),
  { name: "events", title: "20 events", contentType: "text/event-stream", parts: events() },
  json("64-kib", "64 KiB", 64 * 1_024),
  nested("nested", "64 KiB, JSON in JSON", 64 * 1_024),
  json("1-mib", "1 MiB", 1_024 * 1_024),
];

function json(name: string, title: string, sizeBytes: number): CallAnswer {
  const [record] = sampleRecords(sizeBytes, { count: 1 });
  return { name, title, contentType: "application/json", parts: [Buffer.from(record?.text ?? "")] };
}

/** Tools often answer with JSON as a text in JSON. Such an answer is decoded to be searched for values. */
function nested(name: string, title: string, sizeBytes: number): CallAnswer {
  const around = (text: string) => ({ jsonrpc: "2.0", id: 7, result: { content: [{ type: "text", text }] } });
  const [record] = sampleRecords(Math.floor(sizeBytes * 0.84), { count: 1 });
  const body = JSON.stringify(around(record?.text ?? ""))
    .padEnd(sizeBytes)
    .slice(0, sizeBytes);
  return { name, title, contentType: "application/json", parts: [Buffer.from(body)] };
}

function events(): Buffer[] {
  return sampleRecords(177, { count: 20 }).map(({ text }) => Buffer.from(`event: message\ndata: ${text}\n\n`));
}
