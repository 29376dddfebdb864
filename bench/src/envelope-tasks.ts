import { reseed, type StoredValue } from "@keyward/core";
import { type SampleOptions, type SampleRecord, sampleRecords } from "./sample-records.ts";
import { awsEncryptionSdk, iron, jose, keyward, nodeCrypto, nodeCryptoBinary, type Sealer } from "./sealers.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

/** A record as one sealer keeps it. */
interface SealedRecord extends SampleRecord {
  readonly sealed: StoredValue;
}

/** Sealing and opening by each library, compared with node:crypto by hand. */
export function envelopeTasks(sizesBytes: readonly number[]): Task[] {
  const everyone = async () => [nodeCrypto(), keyward("text"), iron(), await jose(), awsEncryptionSdk()];
  const text = async () => [nodeCrypto(), keyward("text")];
  const binary = async () => [nodeCryptoBinary(), keyward("binary")];
  const small = sizesBytes.filter((sizeBytes) => sizeBytes <= 16 * 1024);
  return [
    ...sizesBytes.map((sizeBytes) => sealing("seal text", sizeBytes, everyone)),
    ...sizesBytes.map((sizeBytes) => opening("open text", sizeBytes, everyone)),
    ...sizesBytes.map((sizeBytes) => sealing("seal bytes", sizeBytes, binary)),
    ...sizesBytes.map((sizeBytes) => opening("open bytes", sizeBytes, binary)),
    ...sizesBytes.map((sizeBytes) => sealing("seal multilingual text", sizeBytes, text, { script: "multilingual" })),
    ...sizesBytes.map((sizeBytes) => opening("open multilingual text", sizeBytes, text, { script: "multilingual" })),
    // More writers than subkeys are cached, each of which wrote one record: every record needs its subkey derived.
    ...small.map((sizeBytes) => opening("open text of 400 writers", sizeBytes, text, { count: 400 }, reseed)),
  ];
}

function sealing(name: string, sizeBytes: number, sealers: () => Promise<Sealer[]>, sample: SampleOptions = {}): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const records = sampleRecords(sizeBytes, sample);
    const contestants = (await sealers()).map((sealer) => ({
      name: sealer.name,
      operation: inTurn(records, ({ text, address }) => sealer.seal(text, address)),
    }));
    return { contestants, close: async () => {} };
  };
  return { name, sizeBytes, prepare };
}

function opening(
  name: string,
  sizeBytes: number,
  sealers: () => Promise<Sealer[]>,
  sample: SampleOptions = {},
  beforeEach: () => void = () => {},
): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const contestants: { name: string; operation: () => unknown }[] = [];
    for (const sealer of await sealers()) {
      const records: SealedRecord[] = [];
      for (const { address, text } of sampleRecords(sizeBytes, sample)) {
        beforeEach();
        const sealed = asStored(await sealer.seal(text, address));
        if ((await sealer.open(sealed, address)) !== text)
          throw new Error(`${sealer.name} does not open what it sealed`);
        records.push({ address, text, sealed });
      }
      contestants.push({
        name: sealer.name,
        operation: inTurn(records, ({ sealed, address }) => sealer.open(sealed, address)),
      });
    }
    return { contestants, close: async () => {} };
  };
  return { name, sizeBytes, prepare };
}

/** Text as a store hands it over: one flat piece, where a seal may have left a header and a body joined at need. */
function asStored(sealed: StoredValue): StoredValue {
  return typeof sealed === "string" ? Buffer.from(sealed).toString() : sealed;
}

/** How many bytes each library makes of one record, "plain" among them. */
export async function bytesAtRest(sizeBytes: number): Promise<Record<string, number>> {
  const [record] = sampleRecords(sizeBytes);
  if (record === undefined) return {};
  const { text, address } = record;
  const sizes: Record<string, number> = { plain: Buffer.byteLength(text) };
  const sealers = [nodeCrypto(), keyward("text"), iron(), await jose(), awsEncryptionSdk()];
  for (const sealer of sealers) sizes[`${sealer.name}, text`] = (await sealer.seal(text, address)).length;
  for (const sealer of [nodeCryptoBinary(), keyward("binary")]) {
    sizes[`${sealer.name}, bytes`] = (await sealer.seal(text, address)).length;
  }
  return sizes;
}
