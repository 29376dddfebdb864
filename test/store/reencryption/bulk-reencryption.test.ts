import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Checkpoint,
  census,
  createKeyv,
  EncryptedStore,
  fileCheckpoint,
  plaintext,
  type ReencryptProgress,
  type ReencryptReport,
  reencrypt,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { KeyvMemoryAdapter } from "keyv";
import { afterAll, describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { expectNoSecrets, marker } from "../secrets.ts";
import { contentOf, damaged, keyIdIn, WatchedStore } from "../store/inner-stores.ts";

const value = `${marker}value`;
const folder = await mkdtemp(join(tmpdir(), "keyward-bulk-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Returns a backend with records under the old key in three namespaces, and a store whose primary is the new key. */
async function rotated(countPerNamespace: number, Store: new () => MemoryStore = MemoryStore) {
  const rings = rotation();
  const inner = new Store();
  for (const namespace of ["", "flows", "ns:with::marks"]) {
    await createKeyv({ store: inner, keys: rings.before, namespace }).encryptedStore.setMany(
      Array.from({ length: countPerNamespace }, (_, index) => ({ key: `key ${index}`, value: `${value} ${index}` })),
    );
  }
  return { inner, rings, store: new EncryptedStore(inner, { keys: rings.promoted }) };
}

function addsUp(counts: ReencryptProgress): void {
  const { current, reencrypted, removed, conflicts, unreadable, unauthenticated } = counts;
  expect(current + reencrypted + removed + conflicts + unreadable + unauthenticated).toBe(counts.scanned);
}

async function idsIn(inner: MemoryStore): Promise<string[]> {
  return (await inner.scan({ limit: 1_000_000 })).entries.map((entry) => keyIdIn(entry.value));
}

/** A checkpoint in memory that counts its writes. */
class MemoryCheckpoint implements Checkpoint {
  text: string | undefined;
  writes = 0;

  async read(): Promise<string | undefined> {
    return this.text;
  }

  async write(text: string | undefined): Promise<void> {
    this.writes++;
    this.text = text;
  }
}

describe("reencrypt", () => {
  it("re-encrypts every record of every namespace under the primary", async () => {
    const { inner, store, rings } = await rotated(50);
    const report = await reencrypt(store, { batchSize: 7 });
    expect(report).toMatchObject({
      scanned: 150,
      current: 0,
      reencrypted: 150,
      conflicts: 0,
      expired: 0,
      unreadable: 0,
      complete: true,
      primary: "new",
      unreadableRecords: [],
    });
    expect(new Set(await idsIn(inner))).toEqual(new Set(["new"]));
    expect((await inner.reserved().scan()).entries.map((entry) => keyIdIn(entry.value))).toEqual(["new"]);
    for (const namespace of ["", "flows", "ns:with::marks"]) {
      const read = createKeyv({ store: inner, keys: rings.after, namespace }).encryptedStore;
      expect(await read.get("key 49")).toBe(`${value} 49`);
    }
    expect(await reencrypt(store)).toMatchObject({ scanned: 150, current: 150, reencrypted: 0 });
  });

  it("reports in a dry run how many records it would re-encrypt, and writes nothing", async () => {
    const { inner, store } = await rotated(20);
    const before = await contentOf(inner);
    const reservedBefore = (await inner.reserved().scan()).entries;
    const checkpoint = new MemoryCheckpoint();
    const report = await reencrypt(store, { dryRun: true, checkpoint, batchSize: 7 });
    expect(report).toMatchObject({ scanned: 60, reencrypted: 60, complete: true });
    expect(await contentOf(inner)).toEqual(before);
    expect((await inner.reserved().scan()).entries).toEqual(reservedBefore);
    expect(checkpoint.writes).toBe(0);
  });

  it("re-encrypts only the given namespaces", async () => {
    const { store } = await rotated(5);
    expect(await reencrypt(store, { namespaces: ["flows"] })).toMatchObject({ scanned: 5, reencrypted: 5 });
    const counts = await census(store);
    expect(counts.namespaces.get("flows")?.keys).toEqual(new Map([["new", 5]]));
    expect(counts.keys).toEqual(
      new Map([
        ["old", 10],
        ["new", 5],
      ]),
    );
  });

  it.each([1, 4, 16])(
    "stops when its signal is aborted, and resumes where it stopped, if %d pages are re-encrypted at once",
    async (concurrency) => {
      const { inner, store } = await rotated(100, WatchedStore);
      const checkpoint = new MemoryCheckpoint();
      const batchSize = 10;
      const reports: ReencryptReport[] = [];
      const sealedTwice: string[] = [];
      const sealed = new Set<string>();
      for (let run = 0; reports.at(-1)?.complete !== true; run++) {
        expect(run).toBeLessThan(40);
        const stop = new AbortController();
        const before = new Set(await contentOf(inner));
        reports.push(
          await reencrypt(store, {
            batchSize,
            concurrency,
            checkpoint,
            signal: stop.signal,
            onProgress: (progress) => {
              addsUp(progress);
              expectNoSecrets(progress);
              stop.abort();
            },
          }),
        );
        for (const record of await contentOf(inner)) {
          if (before.has(record)) continue;
          const address = record.slice(0, record.indexOf("kw1"));
          if (sealed.has(address)) sealedTwice.push(address);
          sealed.add(address);
        }
      }
      const last = reports.at(-1);
      expect(reports.length).toBeGreaterThan(1);
      expect(last).toMatchObject({ scanned: 300, complete: true });
      if (last !== undefined) addsUp(last);
      expect(sealedTwice).toEqual([]);
      expect(new Set(await idsIn(inner))).toEqual(new Set(["new"]));
      expect(checkpoint.text).toBeUndefined();
    },
  );

  it("changes nothing if the signal is aborted before it begins", async () => {
    const { inner, store } = await rotated(5);
    const before = await contentOf(inner);
    const report = await reencrypt(store, { signal: AbortSignal.abort() });
    expect(report).toMatchObject({ scanned: 0, complete: false });
    expect(await contentOf(inner)).toEqual(before);
  });

  it("resumes from a checkpoint file, and removes the file when it is done", async () => {
    const { store } = await rotated(20);
    const path = join(folder, "checkpoint.json");
    const stop = new AbortController();
    const options = { batchSize: 7, concurrency: 1, checkpoint: fileCheckpoint(path) };
    await reencrypt(store, { ...options, signal: stop.signal, onProgress: () => stop.abort() });
    const text = await readFile(path, "utf8");
    expectNoSecrets(text);
    if (process.platform !== "win32") expect((await stat(path)).mode & 0o077).toBe(0);
    expect(await reencrypt(store, options)).toMatchObject({ scanned: 60, complete: true });
    await expect(stat(path)).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("starts over if the checkpoint is for another primary or for other namespaces", async () => {
    const { store, inner, rings } = await rotated(20);
    const checkpoint = new MemoryCheckpoint();
    const stop = new AbortController();
    await reencrypt(store, { batchSize: 7, checkpoint, signal: stop.signal, onProgress: () => stop.abort() });
    const left = checkpoint.text;
    expect(left).toBeDefined();
    expect(await reencrypt(store, { checkpoint, namespaces: ["flows"] })).toMatchObject({ scanned: 20 });
    checkpoint.text = left;
    const third = rings.promoted.add({ id: "third" }).promote("third");
    expect(await reencrypt(new EncryptedStore(inner, { keys: third }), { checkpoint })).toMatchObject({ scanned: 60 });
    expect(new Set(await idsIn(inner))).toEqual(new Set(["third"]));
  });

  it.each([
    "",
    "{",
    "null",
    "[]",
    '"text"',
    '{"keyward":"reencrypt"}',
    '{"keyward":"other","primary":"new","namespaces":null,"cursor":"1","counts":{}}',
    '{"keyward":"reencrypt","primary":"new","namespaces":null,"cursor":1,"counts":{}}',
    '{"keyward":"reencrypt","primary":"new","namespaces":null,"cursor":"1","counts":{"scanned":"1"}}',
  ])("refuses the checkpoint %j and changes nothing", async (text) => {
    const { inner, store } = await rotated(3);
    const before = await contentOf(inner);
    const checkpoint = new MemoryCheckpoint();
    checkpoint.text = text;
    await expectRefusal(reencrypt(store, { checkpoint }), "CHECKPOINT_INVALID");
    expect(await contentOf(inner)).toEqual(before);
    const path = join(folder, "garbage");
    await writeFile(path, text);
    await expectRefusal(reencrypt(store, { checkpoint: fileCheckpoint(path) }), "CHECKPOINT_INVALID");
  });

  it("refuses the checkpoint of a job with another name, and changes nothing", async () => {
    const { inner, store } = await rotated(3);
    const before = await contentOf(inner);
    const path = join(folder, "named");
    const text = JSON.stringify({
      keyward: "reencrypt",
      primary: "new",
      job: "flows",
      namespaces: null,
      cursor: "9",
      counts: { scanned: 9, current: 0, reencrypted: 9, conflicts: 0, expired: 0, unreadable: 0 },
    });
    await writeFile(path, text);
    for (const options of [{}, { job: "sessions" }]) {
      await expectRefusal(reencrypt(store, { checkpoint: fileCheckpoint(path, options) }), "CHECKPOINT_INVALID");
    }
    expect(await readFile(path, "utf8")).toBe(text);
    expect(await contentOf(inner)).toEqual(before);
  });

  it("refuses a checkpoint with a cursor that the store rejects, and changes nothing", async () => {
    const { inner, store } = await rotated(3);
    const before = await contentOf(inner);
    const checkpoint = new MemoryCheckpoint();
    const counts = { scanned: 0, current: 0, reencrypted: 0, conflicts: 0, expired: 0, unreadable: 0 };
    const job = { keyward: "reencrypt", primary: "new", namespaces: null, counts };
    checkpoint.text = JSON.stringify({ ...job, cursor: "that of another store" });
    await expectRefusal(reencrypt(store, { checkpoint }), "CHECKPOINT_INVALID");
    expect(await contentOf(inner)).toEqual(before);
  });

  it("lists records that cannot be decrypted, and leaves them unchanged", async () => {
    const { inner, store } = await rotated(10);
    const flows = inner.namespaced("flows");
    const sealed = await flows.get("key 3");
    if (sealed === undefined) throw new Error("nothing was written");
    const broken = new Map<string, unknown>([
      ["key 3", damaged(sealed)],
      ["moved", sealed],
      ["unknown", "kw1.nobody.AAAA"],
      ["later", "kw2.x"],
      ["plain", JSON.stringify({ value })],
    ]);
    for (const [key, stored] of broken) await flows.set(key, stored);
    const report = await reencrypt(store);
    addsUp(report);
    expect(report).toMatchObject({ scanned: 34, reencrypted: 29, unreadable: 5, complete: false });
    const listed = report.unreadableRecords.map(({ namespace, key, code, keyId }) => [namespace, key, code, keyId]);
    expect(listed).toHaveLength(5);
    // Pages are processed concurrently, so the order varies.
    expect(listed).toEqual(
      expect.arrayContaining([
        ["flows", "key 3", "RECORD_TAMPERED", "old"],
        ["flows", "moved", "RECORD_TAMPERED", "old"],
        ["flows", "unknown", "KEY_UNKNOWN", "nobody"],
        ["flows", "later", "ENVELOPE_UNSUPPORTED", undefined],
        ["flows", "plain", "RECORD_NOT_SEALED", undefined],
      ]),
    );
    for (const [key, stored] of broken) {
      expect(Buffer.from((await flows.get(key)) ?? "")).toEqual(
        Buffer.from(stored instanceof Uint8Array ? stored : String(stored)),
      );
    }
    expectNoSecrets(report);
  });

  it("counts a record as unreadable if a format in the option accept throws any error for it", async () => {
    const { inner, rings } = await rotated(3);
    await inner.set("foreign", value);
    const parsing = { name: "parsing", read: (stored: unknown) => JSON.parse(String(stored)) };
    const store = new EncryptedStore(inner, { keys: rings.promoted, accept: [parsing] });
    expect(await reencrypt(store)).toMatchObject({ scanned: 10, reencrypted: 9, unreadable: 1, complete: false });
  });

  it("counts an unreadable record once, even if the job starts over, and is complete only after that record was removed", async () => {
    const { inner, rings, store } = await rotated(3);
    await inner.set("broken", "kw1.old.AAAA");
    await store.setMany(Array.from({ length: 100 }, (_, index) => ({ key: `after ${index}`, value })));
    expect(await reencrypt(store, { dryRun: true })).toMatchObject({ unreadable: 1, complete: false });
    const keys = new TestKeys(rings.promoted);
    const third = rings.promoted.add({ id: "third" }).promote("third");
    const following = new EncryptedStore(inner, { keys });
    const report = await reencrypt(following, {
      concurrency: 1,
      batchSize: 1,
      onProgress: ({ unreadable }) => {
        // The job starts over, and counts the unreadable records again.
        if (unreadable > 0) keys.push(third);
      },
      signal: AbortSignal.timeout(20_000),
    });
    expect(report).toMatchObject({ primary: "third", unreadable: 1, complete: false });
    expect(report.unreadableRecords).toHaveLength(1);
    await inner.delete("broken");
    expect(await reencrypt(following)).toMatchObject({ unreadable: 0, complete: true });
  });

  it("encrypts plaintext records, whatever number their expiry is", async () => {
    const inner = new MemoryStore();
    const times = [0, -1, 1.5, Date.now() + 60_000.5, 2 ** 48, Number.MAX_SAFE_INTEGER, 1e300];
    for (const expires of times) await inner.set(`at ${expires}`, JSON.stringify({ value, expires }));
    const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [plaintext()] });
    const report = await reencrypt(store);
    expect(report).toMatchObject({ scanned: times.length, reencrypted: times.length, expired: 3, unreadable: 0 });
    const live = [`at ${2 ** 48}`, `at ${Number.MAX_SAFE_INTEGER}`, "at 1e+300"];
    expect((await store.getMany(live)).every((found) => found !== undefined)).toBe(true);
    expect(await store.getMany(["at 0", "at -1", "at 1.5"])).toEqual([undefined, undefined, undefined]);
  });

  it("re-encrypts expired records like other records, and a read still returns undefined for them", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    const now = Date.now();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", value, now + 60_000);
    // A backend that does not know the expiry still has the record.
    await inner.set("key", await inner.get("key"));
    vi.useFakeTimers({ toFake: ["Date"], now: now + 60_000 });
    try {
      const store = new EncryptedStore(inner, { keys: rings.promoted });
      expect(await reencrypt(store)).toMatchObject({ scanned: 1, reencrypted: 1, expired: 1 });
      expect(await idsIn(inner)).toEqual(["new"]);
      expect(await store.get("key")).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });

  it("removes expired records under any key and in a foreign format, and no other record, if removeExpired is true", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    const now = Date.now();
    const [before, after] = [rings.before, rings.promoted].map((keys) => new EncryptedStore(inner, { keys }));
    for (const key of ["old ends", "old stays"])
      await before?.set(key, value, now + (key === "old ends" ? 60_000 : 1e9));
    for (const key of ["new ends", "new stays"])
      await after?.set(key, value, now + (key === "new ends" ? 60_000 : 1e9));
    await before?.set("forever", value);
    await inner.set("plain ends", JSON.stringify({ value, expires: now + 60_000 }));
    // A backend that does not know the expiry still has the records.
    for (const { key, value } of (await inner.scan()).entries) await inner.set(key, value);
    vi.useFakeTimers({ toFake: ["Date"], now: now + 60_000 });
    try {
      const store = new EncryptedStore(inner, { keys: rings.promoted, accept: [plaintext()] });
      const wanted = { scanned: 6, current: 1, reencrypted: 2, removed: 3, expired: 3, complete: true };
      expect(await reencrypt(store, { removeExpired: true, dryRun: true })).toMatchObject(wanted);
      expect((await inner.scan()).entries).toHaveLength(6);
      const report = await reencrypt(store, { removeExpired: true });
      expect(report).toMatchObject(wanted);
      addsUp(report);
      const left = (await inner.scan()).entries.map(({ key }) => key).sort();
      expect(left).toEqual(["forever", "new stays", "old stays"]);
      expect(await idsIn(inner)).toEqual(["new", "new", "new"]);
      const again = { current: 3, reencrypted: 0, removed: 0 };
      expect(await reencrypt(store, { removeExpired: true })).toMatchObject(again);
    } finally {
      vi.useRealTimers();
    }
  });

  it("does not remove an expired record that another process wrote again after the job had read it", async () => {
    const rings = rotation();
    const inner = new WatchedStore();
    const now = Date.now();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", value, now + 60_000);
    await inner.set("key", await inner.get("key"));
    vi.spyOn(inner, "namespaced").mockReturnValue(inner);
    inner.beforeReplace = async () => {
      inner.beforeReplace = undefined;
      await new EncryptedStore(inner, { keys: rings.promoted }).set("key", "newer");
    };
    vi.useFakeTimers({ toFake: ["Date"], now: now + 60_000 });
    try {
      const store = new EncryptedStore(inner, { keys: rings.promoted });
      expect(await reencrypt(store, { removeExpired: true })).toMatchObject({ removed: 0 });
      expect(await store.get("key")).toBe("newer");
    } finally {
      vi.useRealTimers();
    }
  });

  it("resumes from a checkpoint of an earlier release, which lacks the counts of skipped and removed records", async () => {
    const { store } = await rotated(3);
    const checkpoint = new MemoryCheckpoint();
    const stop = new AbortController();
    await reencrypt(store, {
      batchSize: 2,
      concurrency: 1,
      checkpoint,
      signal: stop.signal,
      onProgress: () => stop.abort(),
    });
    const saved = JSON.parse(checkpoint.text ?? "");
    const { unauthenticated, removed, ...counts } = saved.counts;
    expect([unauthenticated, removed]).toEqual([0, 0]);
    checkpoint.text = JSON.stringify({ ...saved, counts });
    expect(await reencrypt(store, { checkpoint })).toMatchObject({
      scanned: 9,
      reencrypted: 9,
      removed: 0,
      unauthenticated: 0,
      complete: true,
    });
  });

  it("does not replace a record that another process wrote or removed after the job had read it", async () => {
    const rings = rotation();
    const inner = new WatchedStore();
    const writer = new EncryptedStore(inner, { keys: rings.before });
    await writer.setMany(["written", "deleted", "quiet"].map((key) => ({ key, value })));
    const namespaced = vi.spyOn(inner, "namespaced").mockReturnValue(inner);
    inner.beforeReplace = async () => {
      inner.beforeReplace = undefined;
      await new EncryptedStore(inner, { keys: rings.promoted }).set("written", `${value} newer`);
      await writer.delete("deleted");
    };
    const report = await reencrypt(new EncryptedStore(inner, { keys: rings.promoted }));
    expect(namespaced).toHaveBeenCalled();
    addsUp(report);
    expect(report).toMatchObject({ scanned: 3, reencrypted: 1, conflicts: 2 });
    expect(await writer.has("deleted")).toBe(false);
    expect(await new EncryptedStore(inner, { keys: rings.promoted }).get("written")).toBe(`${value} newer`);
  });

  it("re-encrypts records that another process wrote under the old key after the job had read them", async () => {
    const rings = rotation();
    const inner = new WatchedStore();
    const writer = new EncryptedStore(inner, { keys: rings.before });
    await writer.set("key", value);
    vi.spyOn(inner, "namespaced").mockReturnValue(inner);
    let writes = 0;
    inner.beforeReplace = async () => {
      if (writes++ < 1) await writer.set("key", `${value} ${writes}`);
    };
    const store = new EncryptedStore(inner, { keys: rings.promoted });
    expect(await reencrypt(store)).toMatchObject({ scanned: 1, reencrypted: 1, conflicts: 0 });
    expect(await store.get("key")).toBe(`${value} 1`);
    expect(await idsIn(inner)).toEqual(["new"]);
  });

  it("re-encrypts no further record under the former primary when the primary changes during the job", async () => {
    const { inner, rings } = await rotated(100);
    const third = rings.promoted.add({ id: "third" }).promote("third");
    const keys = new TestKeys(rings.promoted);
    const store = new EncryptedStore(inner, { keys });
    await store.set("key 0", value);
    const live = createKeyv({ store: inner, keys: third, namespace: "ns:with::marks" }).encryptedStore;
    let pages = 0;
    const changed = new Promise((resolve) => store.once("keyring:changed", resolve));
    await reencrypt(store, {
      batchSize: 10,
      concurrency: 1,
      checkpoint: {
        read: async () => undefined,
        write: async () => {
          if (pages++ !== 2) return;
          keys.push(third);
          await changed;
          await live.set("key 99", `${value} live`);
        },
      },
    });
    expect(await live.get("key 99")).toBe(`${value} live`);
    expect(keyIdIn(await inner.namespaced("ns:with::marks").get("key 99"))).toBe("third");
  });

  it("re-encrypts every record under the primary that its report names, even if the primary changes while pages are in progress", async () => {
    const rings = rotation();
    const third = rings.promoted.add({ id: "third" }).promote("third");
    const keys = new TestKeys(rings.promoted);
    const inner = new WatchedStore();
    const names = ["key 0", "key 1", "key 2", "key 3"];
    await new EncryptedStore(inner, { keys: rings.before }).setMany(names.map((key) => ({ key, value })));
    const store = new EncryptedStore(inner, { keys, reencrypt: "off" });
    vi.spyOn(inner, "namespaced").mockReturnValue(inner);
    const { scan } = inner;
    const changed = new Promise((resolve) => store.once("keyring:changed", resolve));
    vi.spyOn(inner, "scan").mockImplementationOnce(async (options) => {
      const page = await scan.call(inner, options);
      keys.push(third);
      await changed;
      return page;
    });
    // The first page is slow: the job may reach its records again under the new primary before it writes them.
    inner.beforeReplace = async () => {
      inner.beforeReplace = undefined;
      for (let turn = 0; turn < 200 && keyIdIn(await inner.get("key 0")) !== "third"; turn++) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    const report = await reencrypt(store, { batchSize: 2, concurrency: 4 });
    expect(report).toMatchObject({ complete: true, primary: "third" });
    expect((await census(inner)).keys).toEqual(new Map([["third", names.length]]));
    expect(await store.getMany(names)).toEqual(names.map(() => value));
  });

  it.each(["concurrency", "batchSize"])(
    "refuses a %s that is not a positive integer, and changes nothing",
    async (name) => {
      const { inner, store } = await rotated(3);
      const before = await contentOf(inner);
      const reservedBefore = (await inner.reserved().scan()).entries;
      for (const count of [Number.NaN, 1.5, Number.POSITIVE_INFINITY, -1, 0]) {
        await expectRefusal(reencrypt(store, { [name]: count }), "VALUE_INVALID");
        expect(await contentOf(inner)).toEqual(before);
        expect((await inner.reserved().scan()).entries).toEqual(reservedBefore);
      }
    },
  );

  it("rejects and changes nothing if the store cannot scan or replace, or if the keyring cannot decrypt the check record", async () => {
    const keys = newRing();
    await expectRefusal(reencrypt(new EncryptedStore(new Map(), { keys })), "STORE_NOT_SCANNABLE");
    await expectRefusal(
      reencrypt(new EncryptedStore(new KeyvMemoryAdapter(new Map()), { keys })),
      "STORE_NOT_SCANNABLE",
    );
    const scanOnly = Object.assign(new KeyvMemoryAdapter(new Map()), { scan: async () => ({ entries: [] }) });
    await expectRefusal(reencrypt(new EncryptedStore(scanOnly, { keys })), "STORE_NOT_ATOMIC");
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys }).set("key", value);
    const before = await contentOf(inner);
    await expectRefusal(reencrypt(new EncryptedStore(inner, { keys: newRing() })), "OVERWRITE_REFUSED");
    expect(await contentOf(inner)).toEqual(before);
  });
});

describe("census", () => {
  it("counts records by key id and namespace, and needs no encryption key", async () => {
    const { inner } = await rotated(4);
    await inner.set("plain", value);
    await inner.set("broken", "kw1.");
    await inner.namespaced("flows").set("later", "kw2.k.x");
    await inner.namespaced("__proto__").set("plain", value);
    for (const store of [inner, new EncryptedStore(inner, { keys: newRing() })]) {
      const counts = await census(store, { batchSize: 3 });
      expect(counts).toMatchObject({ records: 16, unsealed: 2, broken: 2, keys: new Map([["old", 12]]) });
      expect([...counts.namespaces.keys()].sort()).toEqual(["", "__proto__", "flows", "ns:with::marks"]);
      expect(counts.namespaces.get("flows")).toMatchObject({ records: 5, unsealed: 0, broken: 1 });
    }
  });

  it("returns counts that survive JSON.stringify, even for a namespace and a key id named __proto__", async () => {
    const inner = new MemoryStore();
    const keyring = newRing("__proto__");
    for (const namespace of ["", "__proto__", "constructor", "7"]) {
      await new EncryptedStore(inner.namespaced(namespace), { keys: keyring }).set("key", value);
    }
    await inner.set("plain", value);
    const counts = await census(inner);
    const text = JSON.stringify({ ...counts });
    expect(text).toContain('"keys":{"__proto__":4}');
    expect(text).toContain('"__proto__":{"records":1,"unsealed":0,"broken":0,"keys":{"__proto__":1}}');
    const parsed: { namespaces: Record<string, unknown> } = JSON.parse(text);
    expect(Object.keys(parsed.namespaces).sort()).toEqual(["", "7", "__proto__", "constructor"]);
    // The counts are Maps as before, equal to other Maps.
    expect(counts.keys).toStrictEqual(new Map([["__proto__", 4]]));
    expect(counts.namespaces.get("")).toMatchObject({ records: 2, unsealed: 1 });
    expect(JSON.stringify(await census(new MemoryStore()))).toBe(
      '{"records":0,"keys":{},"unsealed":0,"broken":0,"namespaces":{}}',
    );
  });

  it("does not count records in the reserved space, and stops when its signal is aborted", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.set("key", value);
    expect(await census(store)).toMatchObject({ records: 1 });
    const signal = AbortSignal.abort();
    await expect(census(store, { signal })).rejects.toBe(signal.reason);
    await expectRefusal(census(new EncryptedStore(new Map(), { keys: newRing() })), "STORE_NOT_SCANNABLE");
  });
});

it("reencrypt does not replace a record whose key was disabled after the record was decrypted", async () => {
  const { before, promoted } = rotation();
  const inner = new MemoryStore();
  const records = Array.from({ length: 2_000 }, (_, index) => ({ key: `key ${index}`, value }));
  await new EncryptedStore(inner, { keys: before }).setMany(records);
  const keys = new TestKeys(promoted);
  const store = new EncryptedStore(inner, { keys });
  await store.get("nothing");
  const scan = inner.scan.bind(inner);
  let caught: readonly string[] | undefined;
  inner.scan = async (options) => {
    const page = await scan(options);
    if (caught === undefined && page.entries.length >= 200) {
      caught = page.entries.map(({ key }) => key);
      // Between two turns of the encryption of the page.
      setImmediate(() => keys.push(promoted.disable("old")));
    }
    return page;
  };
  const { conflicts } = await reencrypt(store, { concurrency: 1 });
  expect(conflicts).toBeGreaterThan(0);
  for (const key of caught ?? []) expect(keyIdIn(await inner.get(key))).toBe("old");
});
