import { Keyv, type KeyvAny, type KeyvEntry, type KeyvStorageGetResult, type KeyvValue } from "keyv";

/** The name of a call, which the names of its hooks contain, such as `get` in `after:get`. */
type Call =
  | "get"
  | "getMany"
  | "getRaw"
  | "getManyRaw"
  | "set"
  | "setMany"
  | "setRaw"
  | "setManyRaw"
  | "delete"
  | "deleteMany"
  | "has"
  | "hasMany"
  | "clear"
  | "disconnect";

/** Runs the hooks of a call that rejected. `keys` are the keys after Keyv's option `sanitize` has cleaned them. */
type Afterwards = (runHooks: (call: Call, detail: unknown) => Promise<void>, keys: readonly string[]) => Promise<void>;

/**
 * A Keyv that emits `stat:error` and runs the `after:*` hooks even for a call that rejects. Keyv itself does this only
 * for a call whose error it catches. As in Keyv, `stat:error` is emitted once for each key. For a call that rejects,
 * the hook gets the result that Keyv returns for a failed call, such as `undefined`.
 */
export class ReportingKeyv extends Keyv {
  override get<Value = KeyvAny>(key: string): Promise<Value | undefined>;
  override get<Value = KeyvAny>(key: string[]): Promise<(Value | undefined)[]>;
  override get<Value>(key: string | string[]): Promise<Value | undefined | (Value | undefined)[]> {
    if (Array.isArray(key)) return this.getMany<Value>(key);
    return this.#watch(
      () => super.get<Value>(key),
      [key],
      (runHooks, [cleaned]) => runHooks("get", { key: cleaned, value: undefined }),
    );
  }

  override getMany<Value = KeyvAny>(keys: string[]): Promise<(Value | undefined)[]> {
    return this.#watch(
      () => super.getMany<Value>(keys),
      keys,
      (runHooks, cleaned) => runHooks("getMany", cleaned.map(nothing)),
    );
  }

  override getRaw<Value = KeyvAny>(key: string): Promise<KeyvStorageGetResult<Value>> {
    return this.#watch(
      () => super.getRaw<Value>(key),
      [key],
      (runHooks, [cleaned]) => runHooks("getRaw", { key: cleaned, value: undefined }),
    );
  }

  override getManyRaw<Value = KeyvAny>(keys: string[]): Promise<KeyvStorageGetResult<Value>[]> {
    return this.#watch(
      () => super.getManyRaw<Value>(keys),
      keys,
      (runHooks, cleaned) => runHooks("getManyRaw", { keys: cleaned, values: cleaned.map(nothing) }),
    );
  }

  override set<Value = KeyvAny>(key: string, value: Value, ttl?: number): Promise<boolean> {
    return this.#write(
      () => super.set(key, value, ttl),
      [key],
      (runHooks, [cleaned]) => runHooks("set", { key: cleaned, value, ttl }),
    );
  }

  override setMany<Value = KeyvAny>(entries: KeyvEntry<Value>[]): Promise<boolean[]> {
    const call = async () => {
      // Keyv would emit an error for each symbol in the batch.
      if (entries.some(({ value }) => typeof value === "symbol")) this.emit("error", "symbol cannot be serialized");
      return await super.setMany(entries);
    };
    return this.#write(call, keysOf(entries), (runHooks, keys) =>
      runHooks("setMany", { entries, values: keys.map(no) }),
    );
  }

  override setRaw<Value = KeyvAny>(key: string, value: KeyvValue<Value>): Promise<boolean> {
    return this.#write(
      () => super.setRaw(key, value),
      [key],
      (runHooks, [cleaned]) => runHooks("setRaw", { key: cleaned, value, ttl: ttlOf(value) }),
    );
  }

  override setManyRaw<Value = KeyvAny>(entries: KeyvEntry<KeyvValue<Value>>[]): Promise<boolean[]> {
    return this.#write(
      () => super.setManyRaw(entries),
      keysOf(entries),
      (runHooks, keys) => runHooks("setManyRaw", { entries, results: keys.map(no) }),
    );
  }

  override delete(key: string): Promise<boolean>;
  override delete(keys: string[]): Promise<boolean[]>;
  override delete(key: string | string[]): Promise<boolean | boolean[]> {
    if (Array.isArray(key)) return this.deleteMany(key);
    return this.#watch(
      () => super.delete(key),
      [key],
      (runHooks, [cleaned]) => runHooks("delete", { key: cleaned, value: false }),
    );
  }

  override deleteMany(keys: string[]): Promise<boolean[]> {
    return this.#watch(
      () => super.deleteMany(keys),
      keys,
      async (runHooks, cleaned) => {
        await runHooks("deleteMany", { keys: cleaned, values: cleaned.map(no) });
        await runHooks("delete", { key: cleaned, value: cleaned.map(no) });
      },
    );
  }

  override has(key: string[]): Promise<boolean[]>;
  override has(key: string): Promise<boolean>;
  override has(key: string | string[]): Promise<boolean | boolean[]> {
    if (Array.isArray(key)) return this.hasMany(key);
    return this.#watch(
      () => super.has(key),
      [key],
      (runHooks, [cleaned]) => runHooks("has", { key: cleaned, value: false }),
    );
  }

  override hasMany(keys: string[]): Promise<boolean[]> {
    return this.#watch(
      () => super.hasMany(keys),
      keys,
      (runHooks, cleaned) => runHooks("hasMany", { keys: cleaned, values: cleaned.map(no) }),
    );
  }

  override async clear(): Promise<void> {
    try {
      await super.clear();
    } catch (error) {
      this.#countError();
      await this.#runHooks("clear", { namespace: this.namespace });
      throw error;
    }
  }

  override async disconnect(): Promise<void> {
    try {
      await super.disconnect();
    } catch (error) {
      await this.#runHooks("disconnect", { namespace: this.namespace });
      throw error;
    }
  }

  override async *iterator(): AsyncGenerator<[string, KeyvAny], void> {
    try {
      yield* super.iterator();
    } catch (error) {
      this.#countError();
      throw error;
    }
  }

  /**
   * Called before each write, with the keys of the records. A subclass may override this method and throw an error to
   * refuse the write.
   */
  protected requireWritable(_keys: readonly string[]): void {}

  #write<Result>(call: () => Promise<Result>, keys: readonly string[], afterwards: Afterwards): Promise<Result> {
    const checked = () => {
      this.requireWritable(keys);
      return call();
    };
    return this.#watch(checked, keys, afterwards);
  }

  async #watch<Result>(call: () => Promise<Result>, given: readonly string[], afterwards: Afterwards): Promise<Result> {
    try {
      return await call();
    } catch (error) {
      const { sanitize } = this;
      // Like Keyv, report the keys after the option `sanitize` has cleaned them, and no empty key.
      const keys = given.map((key) => (sanitize.enabled ? sanitize.cleanKey(key) : key)).filter((key) => key !== "");
      for (const key of keys) this.#countError(key);
      await afterwards((name, detail) => this.#runHooks(name, detail), keys);
      throw error;
    }
  }

  #countError(key?: string): void {
    const { namespace } = this;
    const event = { event: "error", ...(key === undefined ? {} : { key }), namespace, timestamp: Date.now() };
    this.emit("stat:error", event);
  }

  async #runHooks(call: Call, detail: unknown): Promise<void> {
    // Earlier releases of Keyv used the second name.
    for (const name of [`after:${call}`, `post${call.charAt(0).toUpperCase()}${call.slice(1)}`]) {
      try {
        if ((this.getHooks(name)?.length ?? 0) > 0) await this.hook(name, detail);
      } catch {
        // The error of the hook has been emitted. The call rejects with the first error.
      }
    }
  }
}

function keysOf(entries: readonly { readonly key: string }[]): string[] {
  return entries.map(({ key }) => key);
}

function nothing(): undefined {
  return undefined;
}

function no(): false {
  return false;
}

/**
 * Returns the remaining time to live of a raw value in milliseconds, which Keyv passes to its hooks; `undefined`
 * without one.
 */
function ttlOf({ expires }: { readonly expires?: number | undefined }): number | undefined {
  const leftMs = Number.isFinite(expires) ? Math.ceil(expires ?? 0) - Date.now() : 0;
  return leftMs > 0 ? leftMs : undefined;
}
