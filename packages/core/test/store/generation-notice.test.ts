import { EncryptedStore, type KeyProvider, Keyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it } from "vitest";
import { storeParts } from "../../src/store/encrypted-store.ts";

it("GenerationNotice.prepare() does not lower the required generation, even if the keyring in use has an earlier generation", async () => {
  const ring = Keyring.generate("old").add({ id: "new" });
  const keys: KeyProvider = { load: async () => ring };
  const store = new EncryptedStore(new MemoryStore(), { keys });
  await store.set("key", "value");
  const { generationNotice } = storeParts(store);
  const raised = ring.add({ id: "third" });
  await generationNotice.raise(raised);
  await generationNotice.prepare(ring.promote("new").disable("old"), ring);
  expect(await generationNotice.requiredGeneration(ring)).toBe(raised.generation);
});
