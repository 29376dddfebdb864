import { randomBytes } from "node:crypto";
import { PutSecretValueCommand } from "@aws-sdk/client-secrets-manager";
import { EncryptedStore, exportKeyring, Keyring, rotateKey } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../../../test/servers/moto.ts";
import { type AwsKeysOptions, awsKeys } from "../src/index.ts";
import { Account, newName, refusal, stubEnvironment } from "./account.ts";
import { startProxy } from "./aws-proxy.ts";

const servers = await findMoto();
stubEnvironment();

/** The id that a single key gets from its material, as `envKeys` gives it. */
const idOf = (material: Uint8Array) => Keyring.fromKeys([{ material }]).primary;

describeWithMoto(servers, "the value of a secret", () => {
  let server: MotoServer;
  let account: Account;

  beforeAll(async () => {
    server = await startMoto(servers);
    account = new Account(server.endpoint);
  });

  afterAll(async () => {
    account.close();
    await server.stop();
  });

  type Value = { readonly SecretString?: string; readonly SecretBinary?: Uint8Array };

  /** Creates a secret with this value, and a proxy that records the calls of the providers for this secret. */
  async function openSecret(value: Value) {
    const secretId = await account.newSecret(value);
    const proxy = await startProxy(server.endpoint);
    onTestFinished(() => proxy.close());
    const open = (options: Partial<AwsKeysOptions> = {}) => awsKeys({ secretId, endpoint: proxy.endpoint, ...options });
    const text = async () => (await account.value(secretId)).SecretString ?? "";
    return { secretId, proxy, open, text };
  }

  describe("a secret with several fields", () => {
    // Parsing and writing this text would change the number, drop a duplicate name, and lose the white space.
    const before = `{ "user" : "app",\n  "limit": 12345678901234567890, "nested": {"ring":"decoy",\t"list":[1.50, "}"]},\n  "a\\"b": "x", "user": "last", "__proto__": {"x": 1}, `;
    const after = ` , "password":"p\\\\\\"w"\n}\n`;

    it("keeps every other byte when a keyring in one field is saved", async () => {
      const ring = Keyring.generate("first");
      const value = (saved: Keyring) => `${before}"ring": ${JSON.stringify(exportKeyring(saved))}${after}`;
      const { open, text, secretId } = await openSecret({ SecretString: value(ring) });
      const keys = open({ field: "ring" });
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
      await keys.requireWritable();
      const next = ring.add({ id: "second" });
      await keys.save(next, ring);
      expect(await text()).toBe(value(next));
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it.each(["__proto__", 'a"b', "Schlüssel"])("holds a keyring in a field named %s", async (field) => {
      const ring = Keyring.generate();
      const start = `{"x":1,${JSON.stringify(field)}:`;
      const value = (saved: Keyring) => `${start}${JSON.stringify(exportKeyring(saved))}}`;
      const { open, text } = await openSecret({ SecretString: value(ring) });
      const next = ring.add();
      await open({ field }).save(next, ring);
      expect(await text()).toBe(value(next));
      expect(exportKeyring(await open({ field }).load())).toBe(exportKeyring(next));
    });

    it("keeps a change of another field that another writer makes during a save", async () => {
      const ring = Keyring.generate();
      const value = (saved: Keyring, password: string) => JSON.stringify({ password, ring: exportKeyring(saved) });
      const { open, text, secretId, proxy } = await openSecret({ SecretString: value(ring, "old") });
      let changed = false;
      proxy.fault = async (operation) => {
        if (operation !== "UpdateSecretVersionStage" || changed) return undefined;
        changed = true;
        const SecretString = value(ring, "new");
        await account.secretsManager.send(new PutSecretValueCommand({ SecretId: secretId, SecretString }));
        return undefined;
      };
      const next = ring.add();
      await open({ field: "ring" }).save(next, ring);
      expect(await text()).toBe(value(next, "new"));
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it("gets its first keyring when create() adds the field, and create() does not replace an existing field", async () => {
      const [ring, other] = [Keyring.generate(), Keyring.generate()];
      for (const [value, rest] of [
        ["{}", ""],
        ['{"limit": 1e400}', ',"limit": 1e400'],
      ] as const) {
        const { open, text } = await openSecret({ SecretString: value });
        const keys = open({ field: "ring" });
        await refusal(keys.load(), "KEYRING_INVALID", ring);
        await keys.create(ring);
        const created = `{"ring":${JSON.stringify(exportKeyring(ring))}${rest}}`;
        expect(await text()).toBe(created);
        await refusal(keys.create(other), "KEYRING_CONFLICT", other);
        expect(await text()).toBe(created);
      }
    });

    it("lets rotateKey replace the key, and keeps the other fields", async () => {
      const ring = Keyring.generate("old").withStores(["flows"]);
      const { open, text } = await openSecret({
        SecretString: `{"limit":1e400,"ring":${JSON.stringify(exportKeyring(ring))}}`,
      });
      const keys = open({ field: "ring" });
      const store = new EncryptedStore(new MemoryStore(), { keys });
      await store.set("key", "value");
      const rotation = { stores: { flows: store }, newKey: { id: "new" }, graceMs: 0, unregistered: { waitMs: 0 } };
      await rotateKey(keys, rotation);
      const { primary, keys: left } = await keys.load();
      expect([primary, left.map(({ id }) => id)]).toEqual(["new", ["new"]]);
      expect(await text()).toMatch(/^\{"limit":1e400,"ring":"/);
      expect(await store.get("key")).toBe("value");
      await store.disconnect();
    });

    it("is made by exactly one of several concurrent calls of create if there is no secret", async () => {
      const secretId = newName();
      const rings = Array.from({ length: 4 }, () => Keyring.generate());
      const open = () => awsKeys({ secretId, field: "ring", endpoint: server.endpoint });
      const outcomes = await Promise.allSettled(rings.map((ring) => open().create(ring)));
      const [winner, ...others] = rings.filter((_, index) => outcomes[index]?.status === "fulfilled");
      expect(others).toEqual([]);
      expect(exportKeyring(await open().load())).toBe(exportKeyring(winner ?? Keyring.generate()));
    });

    it.each<[string, Value, string]>([
      ["is no JSON", { SecretString: "{'ring': 1}" }, "no JSON object"],
      ["is a list", { SecretString: "[]" }, "no JSON object"],
      ["is 32 bytes", { SecretBinary: Buffer.alloc(32, 0xff) }, "SecretBinary"],
      ["has an object in the field", { SecretString: '{"ring":{"keyward":1}}' }, "no text in the field"],
      ["has another text in the field", { SecretString: '{"ring":"hunter2 and more"}' }, "field"],
      ["lacks the field", { SecretString: '{"toString":"x"}' }, 'no field "ring"'],
    ])("is refused with the name of the field if the value %s, and the value is not shown", async (_, value, named) => {
      const { open, proxy } = await openSecret(value);
      const error = await refusal(open({ field: "ring" }).load(), "KEYRING_INVALID", Keyring.generate());
      expect(error.message).toContain(named);
      expect(`${error.message}${error.hint}`).not.toMatch(/hunter2/);
      await refusal(open({ field: "ring" }).requireWritable(), "KEYRING_INVALID", Keyring.generate());
      expect(proxy.calls).toEqual(["GetSecretValue", "GetSecretValue"]);
    });

    it("is refused if the option field is empty, and a key that was passed as the field is not shown", async () => {
      expect(() => awsKeys({ secretId: "app", field: "" })).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
      const { open } = await openSecret({ SecretString: "{}" });
      const ring = Keyring.generate();
      const { keys }: { keys: { material: string }[] } = JSON.parse(exportKeyring(ring));
      await refusal(open({ field: keys[0]?.material ?? "" }).load(), "KEYRING_INVALID", ring);
    });
  });

  describe("a secret with bytes", () => {
    it("stays bytes when a keyring document in it is saved, and other fields are kept", async () => {
      const ring = Keyring.generate();
      const next = ring.add();
      const whole = await openSecret({ SecretBinary: Buffer.from(exportKeyring(ring)) });
      await whole.open().save(next, ring);
      const saved = await account.value(whole.secretId);
      expect(saved.SecretString).toBeUndefined();
      expect(Buffer.from(saved.SecretBinary ?? []).toString()).toBe(exportKeyring(next));
      const value = (written: Keyring) => `{"x":1e400,"ring":${JSON.stringify(exportKeyring(written))}}`;
      const field = await openSecret({ SecretBinary: Buffer.from(value(ring)) });
      await field.open({ field: "ring" }).save(next, ring);
      const { SecretBinary } = await account.value(field.secretId);
      expect(Buffer.from(SecretBinary ?? []).toString()).toBe(value(next));
    });
  });

  describe("a secret with a single key", () => {
    const material = randomBytes(32);
    const base64 = material.toString("base64");
    const forms: readonly [string, Value, Partial<AwsKeysOptions>][] = [
      ["bytes", { SecretBinary: material }, {}],
      ["text in bytes", { SecretBinary: Buffer.from(base64) }, {}],
      ["text", { SecretString: `${base64}\n` }, {}],
      ["a field", { SecretString: JSON.stringify({ user: "app", key: base64 }) }, { field: "key" }],
      [
        "a field in base64url",
        { SecretString: JSON.stringify({ key: material.toString("base64url") }) },
        { field: "key" },
      ],
      [
        "a field in hex",
        { SecretString: JSON.stringify({ key: `hex:${material.toString("hex")}` }) },
        { field: "key" },
      ],
    ];

    it.each(forms)(
      "decrypts the records under the key, and the key has the same id as in other sources: %s",
      async (_, value, options) => {
        const inner = new MemoryStore();
        await new EncryptedStore(inner, { keys: Keyring.fromKeys([{ material }]) }).set("key", "value");
        const { open } = await openSecret(value);
        const keys = open(options);
        const store = new EncryptedStore(inner, { keys });
        expect(await store.get("key")).toBe("value");
        expect((await keys.load()).primary).toBe(idOf(material));
        await store.disconnect();
      },
    );

    it.each(forms)("makes save() and rotateKey() reject, and is not written: %s", async (_, value, options) => {
      const { open, proxy } = await openSecret(value);
      const keys = open(options);
      const ring = await keys.load();
      await refusal(keys.requireWritable(), "PROVIDER_READ_ONLY", ring);
      const { hint } = await refusal(keys.save(ring.add(), ring), "PROVIDER_READ_ONLY", ring);
      expect(hint).toContain("exportKeyring");
      await refusal(keys.create(Keyring.generate()), "KEYRING_CONFLICT", ring);
      const store = new EncryptedStore(new MemoryStore(), { keys });
      const rotation = { stores: { flows: store }, graceMs: 0, unregistered: { waitMs: 0 } };
      await refusal(rotateKey(keys, rotation), "PROVIDER_READ_ONLY", ring);
      expect(proxy.calls.filter((call) => call !== "GetSecretValue" && call !== "CreateSecret")).toEqual([]);
      await store.disconnect();
    });

    it("can be replaced by a keyring document with the same key id, and save() then accepts a changed keyring", async () => {
      const { open, secretId, text } = await openSecret({ SecretString: `{"key":"${base64}"}` });
      const keys = open({ field: "key" });
      const ring = await keys.load();
      const SecretString = JSON.stringify({ key: exportKeyring(ring) });
      await account.secretsManager.send(new PutSecretValueCommand({ SecretId: secretId, SecretString }));
      await keys.save(ring.add({ id: "next" }), ring);
      expect(await text()).toContain("next");
      expect((await keys.load()).primary).toBe(idOf(material));
    });

    it("is refused if the text has extra bits or is cut", async () => {
      for (const text of [base64.slice(0, 40), `${base64.slice(0, 42)}9=`, ""]) {
        const { open } = await openSecret({ SecretString: JSON.stringify({ key: text }) });
        const error = await refusal(open({ field: "key" }).load(), "KEYRING_INVALID", Keyring.generate());
        if (text !== "") expect(`${error.message}${error.hint}`).not.toContain(text);
      }
    });
  });
});
