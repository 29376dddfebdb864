import { createSecretKey, randomBytes } from "node:crypto";
import { createKeyv, Keyring } from "@keyward/core";
import { Keyv, type KeyvEncryptionAdapter, KeyvJsonSerializer } from "keyv";
import { decrypt, encrypt } from "./node-crypto.ts";
import { type SampleRecord, sampleRecords } from "./sample-records.ts";
import { nodeCryptoBinary } from "./sealers.ts";
import { memoryStores, redisStores, type Stores, sqliteStores } from "./stores.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

type Operation = (typeof everywhere)[number] | (typeof overTheNetwork)[number];

const everywhere = ["set", "get", "setMany of 100", "getMany of 100"] as const;
/** Concurrent operations, which keep the connection busy while each of them waits for its answer. */
const overTheNetwork = ["16 sets at once", "16 gets at once"] as const;

/** Name of the variant that uses Keyv's JSON serializer. It differs from a plain Keyv only in encryption. */
export const withKeyvsJson = "with Keyward and Keyv's JSON";

/** Name of the variant that uses a store without encryption and encrypts or decrypts by hand in the same call. */
export const cryptoBeside = "node:crypto beside it";

const namespace = "flows";
const batchSize = 100;

interface Entry {
  readonly key: string;
  readonly value: { readonly id: number };
}

/**
 * Tasks that compare Keyv over a store without encryption with Keyv over an EncryptedStore, with Keyv's encryption
 * hook, and with Keyv over a store without encryption while node:crypto does the same work by hand.
 *
 * @param redis Program that starts a Redis server. Without it, there are no tasks over Redis.
 */
export function keyvTasks(sizesBytes: readonly number[], redis: string | undefined): Task[] {
  const over = (name: string, start: () => Promise<Stores>, operations: readonly Operation[]) =>
    operations.flatMap((operation) =>
      sizesBytes
        .filter((sizeBytes) => sizeBytes <= 16 * 1024 || operation === "set" || operation === "get")
        .map((sizeBytes) => keyvTask(name, start, operation, sizeBytes)),
    );
  return [
    ...over("memory", memoryStores, everywhere),
    ...over("SQLite", sqliteStores, everywhere),
    ...(redis === undefined ? [] : over("Redis", () => redisStores(redis), [...everywhere, ...overTheNetwork])),
  ];
}

function keyvTask(store: string, start: () => Promise<Stores>, operation: Operation, sizeBytes: number): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const stores = await start();
    const entries = entriesOf(sampleRecords(sizeBytes, operation.endsWith("100") ? { count: batchSize } : {}));
    const variants = [
      { name: "Keyv", keyv: new Keyv({ store: stores.make(), namespace }) },
      { name: "with Keyward", keyv: createKeyv({ store: stores.make(), namespace, keys: Keyring.generate() }) },
      {
        name: withKeyvsJson,
        keyv: createKeyv({
          store: stores.make(),
          namespace,
          keys: Keyring.generate(),
          serialization: new KeyvJsonSerializer(),
        }),
      },
      { name: "with its encryption hook", keyv: new Keyv({ store: stores.make(), namespace, encryption: aesGcm() }) },
    ];
    const beside = new Keyv({ store: stores.make(), namespace });
    const keyvs = [...variants, { name: cryptoBeside, keyv: beside }];
    for (const { name, keyv } of keyvs) {
      await keyv.setMany(entries);
      const read = await keyv.getMany(entries.map(({ key }) => key));
      if (JSON.stringify(read) !== JSON.stringify(entries.map(({ value }) => value))) {
        throw new Error(`Keyv ${name} does not return the value that was set`);
      }
    }
    return {
      variants: [
        ...variants.map(({ name, keyv }) => ({ name, operation: operationOn(keyv, operation, entries) })),
        {
          name: cryptoBeside,
          operation: inTheSameCall(cryptoOf(operation, entries), operationOn(beside, operation, entries)),
        },
      ],
      close: async () => {
        for (const { keyv } of keyvs) await keyv.disconnect();
        await stores.remove();
      },
    };
  };
  return { name: `${operation}, ${store}`, sizeBytes, prepare };
}

function entriesOf(records: readonly SampleRecord[]): Entry[] {
  return records.map(({ address, text }) => ({ key: address.key, value: JSON.parse(text) }));
}

function operationOn(keyv: Keyv, operation: Operation, entries: readonly Entry[]): () => unknown {
  const keys = entries.map(({ key }) => key);
  // SQLite does not write an unchanged value, and an encrypted value always changes. So every write has another value.
  const changed = entries.map(({ key, value }) => ({ key, value: { ...value, id: 99 - (value.id % 90) } }));
  switch (operation) {
    case "set":
      return inTurn([...changed, ...entries], ({ key, value }) => keyv.set(key, value));
    case "get":
      return inTurn(keys, (key) => keyv.get(key));
    case "setMany of 100":
      return inTurn([changed, entries], (batch) => keyv.setMany([...batch]));
    case "getMany of 100":
      return () => keyv.getMany(keys);
    case "16 sets at once":
      return atOnce(operationOn(keyv, "set", entries));
    case "16 gets at once":
      return atOnce(operationOn(keyv, "get", entries));
  }
}

function atOnce(operation: () => unknown): () => unknown {
  return () => Promise.all(Array.from({ length: 16 }, operation));
}

function inTheSameCall(first: () => unknown, then: () => unknown): () => unknown {
  return () => {
    first();
    return then();
  };
}

/** Encrypts or decrypts by hand, in the binary form, the values that Keyv passes to its store. */
function cryptoOf(operation: Operation, entries: readonly Entry[]): () => unknown {
  const sealer = nodeCryptoBinary();
  const records = entries.map(({ key, value }) => {
    const address = { namespace, key };
    const text = JSON.stringify({ value });
    return { address, text, sealed: sealer.seal(text, address) };
  });
  const seal = ({ text, address }: (typeof records)[number]) => sealer.seal(text, address);
  const open = ({ sealed, address }: (typeof records)[number]) => sealer.open(sealed, address);
  switch (operation) {
    case "set":
      return inTurn(records, seal);
    case "get":
      return inTurn(records, open);
    case "setMany of 100":
      return () => records.map(seal);
    case "getMany of 100":
      return () => records.map(open);
    case "16 sets at once":
      return () => records.slice(0, 16).map(seal);
    case "16 gets at once":
      return () => records.slice(0, 16).map(open);
  }
}

/**
 * An encryption hook of Keyv with plain AES-256-GCM. A hook cannot bind a value to its address, because a hook receives
 * neither key nor namespace.
 */
function aesGcm(): KeyvEncryptionAdapter {
  const key = createSecretKey(randomBytes(32));
  return {
    encrypt: (text) => encrypt(key, text).toString("base64"),
    decrypt: (sealed) => decrypt(key, Buffer.from(sealed, "base64")),
  };
}
