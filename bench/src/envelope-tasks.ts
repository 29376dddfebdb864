import { reseed, type StoredValue } from "@keyward/core";
import { type SampleOptions, type SampleRecord, sampleRecords } from "./sample-records.ts";
import { awsEncryptionSdk, iron, jose, keyward, nodeCrypto, nodeCryptoBinary, type Sealer } from "./sealers.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

/** A record, encrypted by one library. */
interface SealedRecord extends SampleRecord {
  readonly sealed: StoredValue;
}

/** Encryption and decryption by each library, compared with node:crypto by hand. */
export function envelopeTasks(sizesBytes: readonly number[]): Task[] {
  const all = async () => [nodeCrypto(), keyward("text"), iron(), await jose(), awsEncryptionSdk()];
  const text = async () => [nodeCrypto(), keyward("text")];
  const binary = async () => [nodeCryptoBinary(), keyward("binary")];
  const small = sizesBytes.filter((sizeBytes) => sizeBytes <= 16 * 1024);
  return [
    ...sizesBytes.map((sizeBytes) => encryptionTask("encrypt text", sizeBytes, all)),
    ...sizesBytes.map((sizeBytes) => decryptionTask("decrypt text", sizeBytes, all)),
    ...sizesBytes.map((sizeBytes) => encryptionTask("encrypt bytes", sizeBytes, binary)),
    ...sizesBytes.map((sizeBytes) => decryptionTask("decrypt bytes", sizeBytes, binary)),
    ...sizesBytes.map((sizeBytes) =>
      encryptionTask("encrypt multilingual text", sizeBytes, text, { script: "multilingual" }),
    ),
    ...sizesBytes.map((sizeBytes) =>
      decryptionTask("decrypt multilingual text", sizeBytes, text, { script: "multilingual" }),
    ),
    // There are more writers than cached subkeys, and each wrote one record, so every decryption derives a subkey.
    ...small.map((sizeBytes) => decryptionTask("decrypt text of 400 writers", sizeBytes, text, { count: 400 }, reseed)),
  ];
}

function encryptionTask(
  name: string,
  sizeBytes: number,
  sealers: () => Promise<Sealer[]>,
  sample: SampleOptions = {},
): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const records = sampleRecords(sizeBytes, sample);
    const variants = (await sealers()).map((sealer) => ({
      name: sealer.name,
      operation: inTurn(records, ({ text, address }) => sealer.seal(text, address)),
    }));
    return { variants, close: async () => {} };
  };
  return { name, sizeBytes, prepare };
}

function decryptionTask(
  name: string,
  sizeBytes: number,
  sealers: () => Promise<Sealer[]>,
  sample: SampleOptions = {},
  beforeEach: () => void = () => {},
): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const variants: { name: string; operation: () => unknown }[] = [];
    for (const sealer of await sealers()) {
      const records: SealedRecord[] = [];
      for (const { address, text } of sampleRecords(sizeBytes, sample)) {
        beforeEach();
        const sealed = asStored(await sealer.seal(text, address));
        if ((await sealer.open(sealed, address)) !== text)
          throw new Error(`${sealer.name} cannot decrypt what it encrypted`);
        records.push({ address, text, sealed });
      }
      variants.push({
        name: sealer.name,
        operation: inTurn(records, ({ sealed, address }) => sealer.open(sealed, address)),
      });
    }
    return { variants, close: async () => {} };
  };
  return { name, sizeBytes, prepare };
}

/**
 * Returns text as a store returns it: as one flat string. The string of a sealer may be a concatenation that the engine
 * has not copied into one piece yet.
 */
function asStored(sealed: StoredValue): StoredValue {
  return typeof sealed === "string" ? Buffer.from(sealed).toString() : sealed;
}

/** Number of bytes that each library stores for one record. `plain` is the number without encryption. */
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
