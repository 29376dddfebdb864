import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import {
  census,
  createKeyv,
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type KeywardErrorCode,
  type KeywardKeyv,
  reencrypt,
  retireKey,
} from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { SqliteStore } from "@keyward/store-sqlite";
import { SingleBar } from "cli-progress";
import { Disk, printable } from "./disk.ts";
import { runGatewayDemo } from "./gateway.ts";
import { type DemoRecord, readRecords } from "./records.ts";
import { Stage } from "./stage.ts";

const oldKey = "2026-11";
const newKey = "2026-12";
const databaseName = "flows.sqlite";
const batchRecords = 100;
const keyringDeadlineMs = 30_000;
// A shorter text could occur on disk by chance.
const searchedLength = 16;

const stage = new Stage();

async function run(records: readonly DemoRecord[], directory: string): Promise<void> {
  const databasePath = join(directory, databaseName);
  const disk = new Disk(databasePath);
  const keyringPath = join(directory, "production.keyring");
  // The keyring is in a file, like a mounted secret. The demo is both the application and the operator.
  const firstRing = Keyring.generate(oldKey).withStores([databaseName]);
  await writeFile(keyringPath, exportKeyring(firstRing), { mode: 0o600 });

  const keys = fileKeys(keyringPath);
  const store = new SqliteStore(databasePath);
  const flows = createKeyv({ store, keys, namespace: "flows" });
  try {
    await writeAndRead(flows, records, disk);
    await promoteNewKey(flows, keys);
    await readHalf(flows, records);
    await printCensus(store);
    await retire(flows, keys, store);
    stage.begin("Read all of them again");
    stage.hold("each value is the one that was written", await areUnchanged(flows, records));
    await tamper(flows, records, disk);
  } finally {
    await flows.disconnect();
    await store.disconnect();
  }
}

async function writeAndRead(flows: KeywardKeyv, records: readonly DemoRecord[], disk: Disk): Promise<void> {
  stage.begin(`Write ${records.length} records through Keyv`);
  const acknowledged: boolean[] = [];
  for (let at = 0; at < records.length; at += batchRecords) {
    const batch = records.slice(at, at + batchRecords);
    acknowledged.push(...(await flows.setMany(batch.map(({ key, value, ttlMs }) => withTtl(key, value, ttlMs)))));
  }
  stage.hold("every write was acknowledged", acknowledged.length === records.length && acknowledged.every(Boolean));

  stage.begin("Look at the disk, without a key");
  const [first] = records;
  if (first === undefined) return;
  const atRest = disk.read(first.key);
  stage.show(`written  ${JSON.stringify(first.value).slice(0, 90)}…`);
  stage.show(`at rest  ${printable(atRest.subarray(0, 90))}…`);
  stage.hold(
    `the record names the key that encrypted it, ${oldKey}`,
    atRest.toString("latin1").startsWith(`kw1:${oldKey}:`),
  );
  // Keys of records are not encrypted, because a store must find them.
  const keys = records.map(({ key }) => key).join("\n");
  const texts = records.flatMap(({ value }) => longTexts(value)).filter((text) => !keys.includes(text));
  if (texts.length === 0) {
    stage.show(
      `skipped the search of the files for texts of the values: no such text has ${searchedLength} characters or more`,
    );
  } else {
    stage.hold(
      `the files contain none of the texts of ${searchedLength} characters or more in the values (${texts.length})`,
      disk.containsNone(texts),
    );
  }

  stage.begin("Read all of them back");
  stage.hold("each value is the one that was written", await areUnchanged(flows, records));
}

async function promoteNewKey(flows: KeywardKeyv, keys: KeyProvider): Promise<void> {
  stage.begin("Rotate: add a new key, then promote it, while the application runs");
  const arrived = new Promise<boolean>((resolve) => {
    flows.encryptedStore.on("keyring:changed", (ring: Keyring) => {
      stage.show(`the application now has: ${ring}`);
      if (ring.primary === newKey) resolve(true);
    });
  });
  await change(keys, (ring) => ring.add({ id: newKey }));
  await change(keys, (ring) => ring.promote(newKey));
  const deadline = new AbortController();
  const tooLate = setTimeout(keyringDeadlineMs, false, { signal: deadline.signal });
  stage.hold("the application uses the new keyring without a restart", await Promise.race([arrived, tooLate]));
  deadline.abort();
  await tooLate.catch(() => undefined);
}

async function readHalf(flows: KeywardKeyv, records: readonly DemoRecord[]): Promise<void> {
  stage.begin("Read half of the records: each is re-encrypted in the background under the new key");
  const half = records.slice(0, Math.floor(records.length / 2));
  let reencrypted = 0;
  flows.encryptedStore.on("reencrypted", () => reencrypted++);
  for (let at = 0; at < half.length; at += batchRecords) {
    await flows.getMany(half.slice(at, at + batchRecords).map(({ key }) => key));
    await flows.encryptedStore.settled();
  }
  stage.hold(`${reencrypted} records were re-encrypted`, reencrypted === half.length);
}

async function retire(flows: KeywardKeyv, keys: KeyProvider, store: SqliteStore): Promise<void> {
  const stores = { [databaseName]: flows.encryptedStore };
  stage.begin(`Retire ${oldKey}, too early`);
  await expectCode("KEY_IN_USE", () => retireKey(keys, stores, oldKey));

  stage.begin("Re-encrypt the rest in bulk");
  const bar = new SingleBar({ format: "   {bar} {percentage}% | {value}/{total} records", noTTYOutput: false });
  bar.start((await census(store)).records, 0);
  const report = await reencrypt(flows.encryptedStore, {
    batchSize: 50,
    onProgress: ({ scanned }) => bar.update(scanned),
  });
  bar.stop();
  const { scanned, current, reencrypted, unreadable } = report;
  stage.show(`${scanned} scanned, ${current} already current, ${reencrypted} re-encrypted, ${unreadable} unreadable`);
  stage.hold("every record was scanned and is readable", report.complete && unreadable === 0);
  await printCensus(store);

  stage.begin(`Retire ${oldKey} now that no record needs it`);
  const { keyring: disabled } = await retireKey(keys, stores, oldKey);
  stage.show(`${disabled}`);
  const { keyring: removed } = await retireKey(keys, stores, oldKey, { to: "removed" });
  stage.show(`${removed}`);
  stage.hold(
    "the old key was disabled, and then removed",
    removed.keys.every(({ id }) => id !== oldKey),
  );
}

async function tamper(flows: KeywardKeyv, records: readonly DemoRecord[], disk: Disk): Promise<void> {
  const [one, other, third] = records.map(({ key }) => key);
  if (one === undefined || other === undefined || third === undefined) return;
  const [oneAtRest, otherAtRest, thirdAtRest] = [disk.read(one), disk.read(other), disk.read(third)];

  stage.begin("Swap two records on disk");
  disk.write(one, otherAtRest);
  disk.write(other, oneAtRest);
  await expectCode("RECORD_TAMPERED", () => flows.get(one));
  await expectCode("RECORD_TAMPERED", () => flows.get(other));
  await expectCode("OVERWRITE_REFUSED", () => flows.set(one, "a fresh session"));

  stage.begin("Flip one bit on disk");
  const flipped = Buffer.from(thirdAtRest);
  flipped[flipped.length - 20] = (flipped[flipped.length - 20] ?? 0) ^ 1;
  disk.write(third, flipped);
  await expectCode("RECORD_TAMPERED", () => flows.get(third));
  await expectCode("RECORDS_UNREADABLE", () => flows.getMany(records.map(({ key }) => key)));

  stage.begin("Restore the records");
  disk.write(one, oneAtRest);
  disk.write(other, otherAtRest);
  disk.write(third, thirdAtRest);
  stage.hold("nothing was lost", await areUnchanged(flows, records));
}

async function printCensus(store: SqliteStore): Promise<void> {
  const { keys, records } = await census(store);
  for (const [id, count] of keys) stage.show(`census   ${id}  ${String(count).padStart(6)} of ${records} records`);
}

async function expectCode(code: KeywardErrorCode, call: () => Promise<unknown>): Promise<void> {
  try {
    await call();
    stage.hold(`the call rejects with ${code}`, false);
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    stage.hold(`the call rejects with ${code}`, error.code === code);
    stage.show(`${error.message}. ${error.hint}`);
  }
}

async function change(keys: KeyProvider, next: (ring: Keyring) => Keyring): Promise<Keyring> {
  const ring = await keys.load();
  const changed = next(ring);
  await keys.save?.(changed, ring);
  return changed;
}

async function areUnchanged(flows: KeywardKeyv, records: readonly DemoRecord[]): Promise<boolean> {
  for (let at = 0; at < records.length; at += batchRecords) {
    const batch = records.slice(at, at + batchRecords);
    const values = await flows.getMany<unknown>(batch.map(({ key }) => key));
    if (!batch.every(({ value }, index) => isDeepStrictEqual(values[index], value))) return false;
  }
  return true;
}

function withTtl(key: string, value: unknown, ttlMs: number | undefined) {
  return ttlMs === undefined ? { key, value } : { key, value, ttl: ttlMs };
}

/** Returns the texts in a value that have at least `searchedLength` characters. */
function longTexts(value: unknown): string[] {
  if (typeof value === "string") return value.length >= searchedLength ? [value] : [];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(longTexts) : [];
}

async function main(recordsPath: string): Promise<boolean> {
  let records: readonly DemoRecord[];
  try {
    records = await readRecords(recordsPath);
  } catch (error) {
    console.error(`The demo cannot read its records: ${error instanceof Error ? error.message : error}`);
    return false;
  }
  const directory = await mkdtemp(join(tmpdir(), "keyward-demo-"));
  try {
    await run(records, directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  stage.end();
  return stage.allHeld;
}

const sample = fileURLToPath(new URL("../flow-states.ndjson", import.meta.url));
const [what = sample] = process.argv.slice(2);
process.exitCode = (await (what === "gateway" ? runGatewayDemo() : main(what))) ? 0 : 1;
