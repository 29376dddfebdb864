import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import {
  EncryptedStore,
  exportKeyring,
  fileLocation,
  Keyring,
  type KeyringLocation,
  type KeyringWrapper,
  type KeywardError,
  storeLocation,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { AesWrapper } from "./aes-wrapper.ts";

const first = Keyring.generate("2026-11").rename("production");

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => expect.fail("the call did not reject"),
    (error: unknown) => error,
  );
}

function bytesOf(stored: unknown): Buffer | undefined {
  return stored === undefined ? undefined : Buffer.from(String(stored));
}

function inMemory(): KeyringLocation {
  return storeLocation(new MemoryStore());
}

async function opened(ring = first, location = inMemory()) {
  const wrapper = new AesWrapper();
  const keys = wrappedKeys(wrapper, location);
  await keys.create(ring);
  return { wrapper, location, keys };
}

/** Returns the text at a location. Fails if no text is stored there. */
async function textAt(location: KeyringLocation): Promise<string> {
  return (await location.read()) ?? expect.fail("nothing is stored at the location");
}

for (const [name, openLocation] of Object.entries<() => Promise<[KeyringLocation, () => Promise<void>]>>({
  "a store's reserved space": async () => [inMemory(), async () => undefined],
  "a file": async () => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-wrapped-"));
    return [fileLocation(join(directory, "keyring")), () => rm(directory, { recursive: true })];
  },
})) {
  const open = async (
    change: (location: KeyringLocation, text: string) => Promise<unknown>,
  ): Promise<OpenKeyProvider> => {
    const [location, close] = await openLocation();
    const ring = Keyring.generate();
    const { keys } = await opened(ring, location);
    await change(location, await textAt(location));
    const { material } = JSON.parse(exportKeyring(ring)).keys[0];
    const bytes = Buffer.from(material, "base64url");
    const secrets = (["hex", "base64", "base64url"] as const).map((encoding) => bytes.toString(encoding));
    return { provider: keys, close, secrets: () => secrets };
  };
  keyProviderContract(
    { describe, it },
    {
      name: `a wrapped keyring in ${name}`,
      expect: { save: true, subscribe: false },
      open: () => open(async () => undefined),
      failing: [
        {
          name: "a text that was altered",
          code: "KEYRING_INVALID",
          open: () => open((location, text) => location.replace(text, `${text.slice(0, -8)}AAAAAAAA`)),
        },
        {
          name: "a location where nothing is stored",
          code: "PROVIDER_UNAVAILABLE",
          open: async () => {
            const [location, close] = await openLocation();
            return { provider: wrappedKeys(new AesWrapper(), location), close, secrets: () => [] };
          },
        },
      ],
    },
  );
}

describe("wrappedKeys", () => {
  it("unwraps the stored keyring once, and again only after the stored keyring has changed", async () => {
    const { wrapper, location, keys } = await opened();
    const reader = wrappedKeys(wrapper, location);
    for (let load = 0; load < 3; load++) expect((await reader.load()).primary).toBe("2026-11");
    expect(wrapper.calls.unwrap).toBe(1);
    await keys.save(first.add({ id: "2026-12" }), first);
    for (let load = 0; load < 3; load++) expect((await reader.load()).keys).toHaveLength(2);
    expect(wrapper.calls.unwrap).toBe(2);
  });

  it("overwrites the bytes of every keyring document with zeros after use", async () => {
    const { wrapper, location, keys } = await opened();
    await keys.save(first.add(), first);
    await wrappedKeys(wrapper, location).load();
    expect(wrapper.documents).toHaveLength(3);
    for (const document of wrapper.documents) expect(document.every((byte) => byte === 0)).toBe(true);
  });

  it("overwrites the bytes of every keyring document with zeros after a failed save, create or load", async () => {
    const { wrapper, location, keys } = await opened();
    await wrappedKeys(wrapper, inMemory()).create(first);
    const failing: KeyringLocation = { read: () => location.read(), replace: async () => false };
    await rejection(wrappedKeys(wrapper, failing).save(first.add(), first));
    const garbage: KeyringWrapper = {
      wrap: (document) => wrapper.wrap(document),
      async unwrap(wrapped) {
        const document = await wrapper.unwrap(wrapped);
        document[0] = 0x78;
        return document;
      },
    };
    expect(await rejection(wrappedKeys(garbage, location).load())).toMatchObject({ code: "KEYRING_INVALID" });
    expect(wrapper.documents.length).toBeGreaterThan(3);
    for (const document of wrapper.documents) expect(document.every((byte) => byte === 0)).toBe(true);
    expect(await keys.load()).toBe(first);
  });

  it("returns a provider that keeps its methods when it is copied by spread syntax", async () => {
    const location = inMemory();
    const keys = { ...wrappedKeys(new AesWrapper(), location) };
    const ring = Keyring.generate();
    await keys.create(ring);
    await keys.save(ring.add(), ring);
    expect((await keys.load()).generation).toBe(ring.generation + 1);
    expect(await keys.rewrap()).toBe(false);
  });

  it("creates a keyring only if no keyring is stored at the location", async () => {
    const { wrapper, location, keys } = await opened();
    const again = await rejection(keys.create(Keyring.generate()));
    expect(again).toMatchObject({ code: "KEYRING_INVALID" });
    const other = wrappedKeys(wrapper, location);
    expect(await rejection(other.create(Keyring.generate()))).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect(wrapper.calls.wrap).toBe(1);
    const fresh = inMemory();
    const outcomes = await Promise.allSettled(
      [1, 2, 3].map(async () => wrappedKeys(wrapper, fresh).create(Keyring.generate())),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });

  it("refuses a keyring of an older generation that an attacker has put back", async () => {
    const { wrapper, location, keys } = await opened();
    const stolen = await textAt(location);
    const revoked = first.add({ id: "2026-12" }).promote("2026-12").disable("2026-11");
    await keys.save(revoked, first);
    await location.replace(await textAt(location), stolen);
    expect(await rejection(keys.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    // A new process has loaded nothing: only minGeneration makes it refuse the older generation.
    expect((await wrappedKeys(wrapper, location).load()).generation).toBe(first.generation);
    const strict = wrappedKeys(wrapper, location, { minGeneration: revoked.generation });
    expect(await rejection(strict.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    expect(await rejection(keys.save(revoked.add(), revoked))).toMatchObject({ code: "KEYRING_CONFLICT" });
  });

  it("refuses a keyring with another name, even if the same key service has wrapped it", async () => {
    const { wrapper, location, keys } = await opened();
    const other = inMemory();
    await wrappedKeys(wrapper, other).create(Keyring.generate().rename("staging").add().add());
    await location.replace(await textAt(location), await textAt(other));
    for (const provider of [keys, wrappedKeys(wrapper, location, { name: "production" })]) {
      expect(await rejection(provider.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    }
  });

  it("still loads the keyring in use after a store has refused another keyring at the location", async () => {
    const { wrapper, location } = await opened();
    const keys = wrappedKeys(wrapper, location, { refreshMs: 10 });
    const inUse = first.add({ id: "2026-12" }).promote("2026-12");
    await keys.save(inUse, first);
    const right = await textAt(location);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", "value");
    const reports: string[] = [];
    store.on("provider:error", ({ message }: KeywardError) => reports.push(message));
    store.on("keyring:changed", ({ primary }: Keyring) => reports.push(primary));
    // The other keyring shares a key with the one in use, but lacks the key of the check record.
    const other = inMemory();
    await wrappedKeys(wrapper, other).create(first.withStores(["a"]).withStores(["b"]).withStores(["c"]));
    await location.replace(right, await textAt(other));
    await expect.poll(() => reports.at(-1)).toMatch(/check record/);
    await location.replace(await textAt(location), right);
    await expect.poll(async () => (await keys.load({ inUse })).generation).toBe(inUse.generation);
    const next = inUse.promote("2026-11");
    await keys.save(next, inUse);
    await expect.poll(() => reports.at(-1)).toBe("2026-11");
    expect(reports.filter((text) => !/check record/.test(text))).toEqual(["2026-11"]);
    await store.disconnect();
  });

  it("refuses an older keyring, except for a caller that still uses it, even after an unrelated keyring was stored", async () => {
    const { wrapper, location, keys } = await opened();
    const other = inMemory();
    await wrappedKeys(wrapper, other).create(
      Keyring.generate().rename("production").withStores(["a"]).withStores(["b"]),
    );
    const old = await textAt(location);
    const next = first.add({ id: "2026-12" });
    await keys.save(next, first);
    const right = await textAt(location);
    const store = async (text: string) => await location.replace(await textAt(location), text);
    // A caller that uses the old keyring loads the next one, and uses that from then on.
    expect((await keys.load({ inUse: first })).generation).toBe(next.generation);
    await store(old);
    for (const options of [{}, { inUse: next }]) {
      expect(await rejection(keys.load(options))).toMatchObject({ code: "KEYRING_ROLLBACK" });
    }
    // A caller that still uses the old keyring may load it again. For all others it stays refused.
    expect((await keys.load({ inUse: first })).generation).toBe(first.generation);
    expect(await rejection(keys.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    await store(await textAt(other));
    await keys.load({ inUse: next });
    await store(old);
    expect(await rejection(keys.load({ inUse: next }))).toMatchObject({ code: "KEYRING_ROLLBACK" });
    await store(right);
    expect((await keys.load({ inUse: next })).generation).toBe(next.generation);
    await keys.save(next.promote("2026-12"), next);
    await store(old);
    expect(await rejection(keys.load({ inUse: next }))).toMatchObject({ code: "KEYRING_ROLLBACK" });
  });

  it("refuses to save a keyring that it would refuse to load", async () => {
    const { wrapper, location, keys } = await opened();
    for (const [next, code] of [
      [first.scope("a"), "KEYRING_INVALID"],
      [Keyring.dangerouslyPlaintext(), "KEYRING_INVALID"],
      [first.rename("staging"), "KEYRING_INVALID"],
      [Keyring.generate().rename("production").rename("production"), undefined],
    ] as const) {
      const saved = keys.save(next, first);
      if (code === undefined) await saved;
      else expect(await rejection(saved)).toMatchObject({ code });
    }
    const strict = wrappedKeys(wrapper, inMemory(), { minGeneration: 9 });
    expect(await rejection(strict.create(first))).toMatchObject({ code: "KEYRING_ROLLBACK" });
    expect(() => wrappedKeys(wrapper, location, { minGeneration: 0.5 })).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID" }),
    );
    expect(() => wrappedKeys(wrapper, location, { refreshMs: 0 })).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID" }),
    );
    expect(wrappedKeys(wrapper, location, { refreshMs: 60_000 }).freshness).toMatchObject({ refreshMs: 60_000 });
  });

  it("returns the later keyring from a load if that keyring is saved while the load is in progress", async () => {
    const { wrapper, location } = await opened();
    const keys = wrappedKeys(wrapper, location);
    const unwrapping = Promise.withResolvers<void>();
    const released = Promise.withResolvers<void>();
    wrapper.beforeUnwrap = async () => {
      wrapper.beforeUnwrap = async () => undefined;
      unwrapping.resolve();
      await released.promise;
    };
    const loading = keys.load();
    await unwrapping.promise;
    const next = first.add();
    await keys.save(next, first);
    released.resolve();
    expect((await loading).generation).toBe(next.generation);
    expect((await keys.load()).generation).toBe(next.generation);
  });

  it("refuses to save a change of an older keyring, even if the same provider has loaded the later keyring since", async () => {
    const { wrapper, location, keys } = await opened();
    const other = wrappedKeys(wrapper, location);
    const second = first.add();
    await other.save(second, first);
    await other.save(second.add(), second);
    await keys.load();
    expect(await rejection(keys.save(first.add(), first))).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect(await rejection(keys.create(first))).toMatchObject({ code: "KEYRING_CONFLICT" });
  });

  it("refuses to save a keyring if another provider saves a later keyring during the save", async () => {
    const { wrapper, location } = await opened();
    const [keys, other] = [wrappedKeys(wrapper, location), wrappedKeys(wrapper, location)];
    wrapper.beforeUnwrap = async () => {
      wrapper.beforeUnwrap = async () => undefined;
      const second = first.add();
      await other.save(second, first);
      await other.save(second.add(), second);
      await keys.load();
    };
    expect(await rejection(keys.save(first.add(), first))).toMatchObject({ code: "KEYRING_CONFLICT" });
  });

  it("refuses to save a change of an older keyring that an attacker has put back", async () => {
    const { wrapper, location, keys } = await opened();
    const stolen = await textAt(location);
    const second = first.add();
    await keys.save(second, first);
    await keys.save(second.add(), second);
    await location.replace(await textAt(location), stolen);
    const misled = await wrappedKeys(wrapper, location).load();
    expect(await rejection(keys.save(misled.add(), misled))).toMatchObject({ code: "KEYRING_ROLLBACK" });
  });

  it.each(["with rewrap", "without rewrap"])(
    "wraps the keyring under the newest version of the wrapping key when rewrap() is called, for a wrapper %s",
    async (kind) => {
      const { wrapper, location } = await opened();
      const service: KeyringWrapper =
        kind === "with rewrap"
          ? wrapper
          : { wrap: (document) => wrapper.wrap(document), unwrap: (wrapped) => wrapper.unwrap(wrapped) };
      const keys = wrappedKeys(service, location);
      wrapper.rotate();
      expect(await keys.rewrap()).toBe(true);
      expect(await textAt(location)).toMatch(/^v2:/);
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(first));
      if (kind === "with rewrap") expect(await keys.rewrap()).toBe(false);
    },
  );

  it("does not overwrite the stored keyring in rewrap() if that keyring changes during the call", async () => {
    const { wrapper, location, keys } = await opened();
    wrapper.rotate();
    const slow: KeyringWrapper = {
      wrap: (document) => wrapper.wrap(document),
      unwrap: (wrapped) => wrapper.unwrap(wrapped),
      async rewrap(wrapped) {
        await keys.save(first.add(), first);
        return await wrapper.rewrap(wrapped);
      },
    };
    expect(await rejection(wrappedKeys(slow, location).rewrap())).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect((await wrappedKeys(wrapper, location).load()).generation).toBe(first.generation + 1);
  });
});

describe("a keyring location", () => {
  it("keeps its keyring separate from other keyrings in the same store, and keeps it when the store is cleared", async () => {
    const store = new MemoryStore();
    const [one, other] = [storeLocation(store), storeLocation(store, "other")];
    expect(await one.replace(undefined, "one")).toBe(true);
    expect(await other.replace(undefined, "other")).toBe(true);
    await store.clear();
    expect([await one.read(), await other.read()]).toEqual(["one", "other"]);
    expect(await one.replace("other", "next")).toBe(false);
    expect(await one.replace(undefined, "next")).toBe(false);
  });

  it("replaces the stored text even if the store returns the text as bytes", async () => {
    const store = new MemoryStore();
    const reserved = store.reserved();
    const asBytes = Object.assign(Object.create(reserved), {
      get: async (key: string) => bytesOf(await reserved.get(key)),
      replace: async (key: string, expected: unknown, next: string) => {
        if (typeof expected === "string") return false;
        return await reserved.replace(key, expected === undefined ? undefined : String(expected), next);
      },
    });
    const location = storeLocation({ reserved: () => asBytes });
    expect(await location.replace(undefined, "first")).toBe(true);
    expect(await location.read()).toBe("first");
    expect(await location.replace("other", "next")).toBe(false);
    expect(await location.replace("first", "next")).toBe(true);
    expect(await location.read()).toBe("next");
  });

  it("is refused in a store without a reserved space", () => {
    const store = new MemoryStore();
    Object.assign(store, { reserved: undefined });
    expect(() => storeLocation(store)).toThrow("reserved space");
  });

  it("replaces the text of a file only if the file has the expected text, or is missing and no text is expected", async () => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-place-"));
    try {
      const path = join(directory, "keyring");
      const location = fileLocation(path);
      expect(await location.read()).toBeUndefined();
      expect(await location.replace("anything", "next")).toBe(false);
      expect(await location.replace(undefined, "first")).toBe(true);
      expect(await readFile(path, "utf8")).toBe("first");
      expect(await location.replace(undefined, "second")).toBe(false);
      const raced = await Promise.all(["a", "b", "c"].map((next) => location.replace("first", next)));
      expect(raced.filter(Boolean)).toHaveLength(1);
      expect(await rejection(fileLocation(directory).read())).toMatchObject({ code: "KEYRING_INVALID" });
      const missing = fileLocation(join(directory, "none", "keyring"), { shownAs: "The keyring" });
      expect(await missing.read()).toBeUndefined();
      expect(await rejection(missing.replace(undefined, "next"))).toMatchObject({
        code: "PROVIDER_UNAVAILABLE",
        message: "The keyring cannot be written (ENOENT)",
      });
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
