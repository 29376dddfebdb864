import { type EncryptedStore, KeywardError, type StoredValue } from "@keyward/core";

/** The result of one read of the store, by key: a value, an error, or `undefined` if there is no record. */
export type FoundRecords = ReadonlyMap<string, StoredValue | KeywardError | undefined>;

/** A read of the store that has not begun, and that further callers may join. */
interface NextRead<Begun> {
  readonly keys: Set<string>;
  readonly found: Promise<{ readonly records: FoundRecords; readonly begun: Begun }>;
}

/** The largest number of keys in one read. A larger read would delay the calls that wait for it. */
const maxKeys = 500;
/** The time after which a read is rejected, if the store has not answered. Every store of Keyward rejects earlier. */
const longestReadMs = 60_000;

/**
 * Reads the records of many callers in one call to the store. Callers that ask in the same turn of the event loop share the
 * next read. No caller joins a read that has begun, so each caller sees every write that ended before the caller asked.
 */
export class JointReads<Begun> {
  readonly #store: Pick<EncryptedStore, "getManyOrErrors">;
  readonly #begins: () => Begun;
  #next: NextRead<Begun> | undefined;

  /** @param begins called when a read begins. Its result is returned with the records. */
  constructor(store: Pick<EncryptedStore, "getManyOrErrors">, begins: () => Begun) {
    this.#store = store;
    this.#begins = begins;
  }

  /** Reads records. The result may also contain records that other callers have asked for. */
  read(keys: readonly string[]): NextRead<Begun>["found"] {
    this.#next ??= this.#planned();
    const { keys: asked, found } = this.#next;
    for (const key of keys) asked.add(key);
    if (asked.size >= maxKeys) this.#next = undefined;
    return found;
  }

  #planned(): NextRead<Begun> {
    const keys = new Set<string>();
    const found = new Promise<void>((resolve) => setImmediate(resolve)).then(async () => {
      if (this.#next?.keys === keys) this.#next = undefined;
      const begun = this.#begins();
      const asked = [...keys];
      const values = await inTime(this.#store.getManyOrErrors(asked));
      return { records: new Map(asked.map((key, index) => [key, values[index]])), begun };
    });
    return { keys, found };
  }
}

/** @throws KeywardError `STORE_UNAVAILABLE` if a read takes too long. */
async function inTime<Result>(reading: Promise<Result>): Promise<Result> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(notAnswered()), longestReadMs).unref();
  try {
    return await Promise.race([reading, late]);
  } finally {
    clearTimeout(timer);
  }
}

function notAnswered(): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", `The store has not answered a read within ${longestReadMs} ms`, {
    hint: "Check that the store is running and can be reached. The next call reads from the store again.",
  });
}
