import { Keyv, type KeyvAny, type KeyvEntry, type KeyvStorageGetResult, type KeyvValue } from "keyv";

/** What Keyv names its hooks after, as in `after:get`. */
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

/** Tells the hooks of a call that rejected, whose keys are as Keyv cleaned them. */
type Afterwards = (tell: (call: Call, detail: unknown) => Promise<void>, keys: readonly string[]) => Promise<void>;

/**
 * A Keyv that tells of a call that rejects as Keyv tells of a failure that it swallows: by `stat:error` for each key, and by
 * the `after:*` hook of the call with what Keyv would have answered. Figures and hooks are Keyv's where a call succeeds.
 */
export class ReportingKeyv extends Keyv {
  override get<Value = KeyvAny>(key: string): Promise<Value | undefined>;
  override get<Value = KeyvAny>(key: string[]): Promise<(Value | undefined)[]>;
  override get<Value>(key: string | string[]): Promise<Value | undefined | (Value | undefined)[]> {
    if (Array.isArray(key)) return this.getMany<Value>(key);
    return this.#watch(
      () => super.get<Value>(key),
      [key],
      (tell, [cleaned]) => tell("get", { key: cleaned, value: undefined }),
    );
  }

  override getMany<Value = KeyvAny>(keys: string[]): Promise<(Value | undefined)[]> {
    return this.#watch(
      () => super.getMany<Value>(keys),
      keys,
      (tell, cleaned) => tell("getMany", cleaned.map(nothing)),
    );
  }

  override getRaw<Value = KeyvAny>(key: string): Promise<KeyvStorageGetResult<Value>> {
    return this.#watch(
      () => super.getRaw<Value>(key),
      [key],
      (tell, [cleaned]) => tell("getRaw", { key: cleaned, value: undefined }),
    );
  }

  override getManyRaw<Value = KeyvAny>(keys: string[]): Promise<KeyvStorageGetResult<Value>[]> {
    return this.#watch(
      () => super.getManyRaw<Value>(keys),
      keys,
      (tell, cleaned) => tell("getManyRaw", { keys: cleaned, values: cleaned.map(nothing) }),
    );
  }

  override set<Value = KeyvAny>(key: string, value: Value, ttl?: number): Promise<boolean> {
    return this.#write(
      () => super.set(key, value, ttl),
      [key],
      (tell, [cleaned]) => tell("set", { key: cleaned, value, ttl }),
    );
  }

  override setMany<Value = KeyvAny>(entries: KeyvEntry<Value>[]): Promise<boolean[]> {
    const call = async () => {
      // Keyv would emit for each symbol of a batch.
      if (entries.some(({ value }) => typeof value === "symbol")) this.emit("error", "symbol cannot be serialized");
      return await super.setMany(entries);
    };
    return this.#write(call, keysOf(entries), (tell, keys) => tell("setMany", { entries, values: keys.map(no) }));
  }

  override setRaw<Value = KeyvAny>(key: string, value: KeyvValue<Value>): Promise<boolean> {
    return this.#write(
      () => super.setRaw(key, value),
      [key],
      (tell, [cleaned]) => tell("setRaw", { key: cleaned, value, ttl: ttlOf(value) }),
    );
  }

  override setManyRaw<Value = KeyvAny>(entries: KeyvEntry<KeyvValue<Value>>[]): Promise<boolean[]> {
    return this.#write(
      () => super.setManyRaw(entries),
      keysOf(entries),
      (tell, keys) => tell("setManyRaw", { entries, results: keys.map(no) }),
    );
  }

  override delete(key: string): Promise<boolean>;
  override delete(keys: string[]): Promise<boolean[]>;
  override delete(key: string | string[]): Promise<boolean | boolean[]> {
    if (Array.isArray(key)) return this.deleteMany(key);
    return this.#watch(
      () => super.delete(key),
      [key],
      (tell, [cleaned]) => tell("delete", { key: cleaned, value: false }),
    );
  }

  override deleteMany(keys: string[]): Promise<boolean[]> {
    return this.#watch(
      () => super.deleteMany(keys),
      keys,
      async (tell, cleaned) => {
        await tell("deleteMany", { keys: cleaned, values: cleaned.map(no) });
        await tell("delete", { key: cleaned, value: cleaned.map(no) });
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
      (tell, [cleaned]) => tell("has", { key: cleaned, value: false }),
    );
  }

  override hasMany(keys: string[]): Promise<boolean[]> {
    return this.#watch(
      () => super.hasMany(keys),
      keys,
      (tell, cleaned) => tell("hasMany", { keys: cleaned, values: cleaned.map(no) }),
    );
  }

  override async clear(): Promise<void> {
    try {
      await super.clear();
    } catch (error) {
      this.#tellError();
      await this.#tellHooks("clear", { namespace: this.namespace });
      throw error;
    }
  }

  override async disconnect(): Promise<void> {
    try {
      await super.disconnect();
    } catch (error) {
      await this.#tellHooks("disconnect", { namespace: this.namespace });
      throw error;
    }
  }

  override async *iterator(): AsyncGenerator<[string, KeyvAny], void> {
    try {
      yield* super.iterator();
    } catch (error) {
      this.#tellError();
      throw error;
    }
  }

  /** Called by each write with its keys: throws where nothing may be written. */
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
      // Keyv tells of keys as it cleaned them, and never of an empty one.
      const keys = given.map((key) => (sanitize.enabled ? sanitize.cleanKey(key) : key)).filter((key) => key !== "");
      for (const key of keys) this.#tellError(key);
      await afterwards((name, detail) => this.#tellHooks(name, detail), keys);
      throw error;
    }
  }

  #tellError(key?: string): void {
    const { namespace } = this;
    const event = { event: "error", ...(key === undefined ? {} : { key }), namespace, timestamp: Date.now() };
    this.emit("stat:error", event);
  }

  async #tellHooks(call: Call, detail: unknown): Promise<void> {
    // The second is what Keyv named it before.
    for (const name of [`after:${call}`, `post${call.charAt(0).toUpperCase()}${call.slice(1)}`]) {
      try {
        if ((this.getHooks(name)?.length ?? 0) > 0) await this.hook(name, detail);
      } catch {
        // Listeners of `error` were told of it. The call rejects with what failed first.
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

/** How long a raw value is to stay yet, as Keyv tells its hooks. */
function ttlOf({ expires }: { readonly expires?: number | undefined }): number | undefined {
  const leftMs = Number.isFinite(expires) ? Math.ceil(expires ?? 0) - Date.now() : 0;
  return leftMs > 0 ? leftMs : undefined;
}
