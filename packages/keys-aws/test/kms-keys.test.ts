import { execFile } from "node:child_process";
import { createDecipheriv } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DecryptCommand, KMSClient } from "@aws-sdk/client-kms";
import {
  EncryptedStore,
  exportKeyring,
  Keyring,
  type KeyringLocation,
  type KeywardError,
  type KeywardErrorCode,
  storeLocation,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, expect, it, onTestFinished, vi } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../../../test/servers/moto.ts";
import { type KmsKeysOptions, kmsKeys } from "../src/index.ts";
import { Account, refusal, secretsOf, stubEnvironment } from "./account.ts";
import { startProxy } from "./aws-proxy.ts";

const run = promisify(execFile);
const servers = await findMoto();
stubEnvironment();

/** A location in memory that a test can read and overwrite. */
class MemoryLocation implements KeyringLocation {
  text: string | undefined;

  async read(): Promise<string | undefined> {
    return this.text;
  }

  async replace(expected: string | undefined, next: string): Promise<boolean> {
    if (this.text !== expected) return false;
    this.text = next;
    return true;
  }
}

describeWithMoto(servers, "kmsKeys", () => {
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

  /** Creates a wrapped keyring, and a proxy between KMS and the providers that load this keyring. */
  async function openRing(ring = Keyring.generate("first")) {
    const keyId = await account.newKey();
    const place = new MemoryLocation();
    const proxy = await startProxy(server.endpoint);
    onTestFinished(() => proxy.close());
    const open = (options: Partial<KmsKeysOptions> = {}) =>
      kmsKeys({ keyId, place, endpoint: proxy.endpoint, name: ring.name, ...options });
    await open().create(ring);
    proxy.calls.length = 0;
    return { ring, keyId, place, proxy, open };
  }

  it("a provider of kmsKeys wraps a keyring that is longer than 4 KiB, the maximum that KMS can encrypt", async () => {
    let ring = Keyring.generate();
    for (let count = 0; count < 60; count++) ring = ring.add();
    const { place, open } = await openRing(ring);
    expect(exportKeyring(ring).length).toBeGreaterThan(2 * 4_096);
    expect(place.text).toMatch(/^kms1\.[\w-]+\.[\w-]+$/);
    for (const secret of secretsOf(ring)) expect(place.text?.includes(secret)).toBe(false);
    expect(exportKeyring(await open().load())).toBe(exportKeyring(ring));
  });

  it("a provider of kmsKeys calls KMS once for a keyring, however often the keyring is loaded, and never for a record", async () => {
    const { proxy, open } = await openRing();
    const keys = open();
    await Promise.all(Array.from({ length: 50 }, () => keys.load()));
    await keys.load();
    const store = new EncryptedStore(new MemoryStore(), { keys });
    for (let index = 0; index < 50; index++) await store.set(`key ${index}`, "value");
    expect(await store.get("key 7")).toBe("value");
    expect(proxy.calls).toEqual(["Decrypt"]);
  });

  it("a provider of kmsKeys refuses a wrapped keyring that was altered, cut, or combined with parts of another wrapped keyring", async () => {
    const { ring, place, open } = await openRing();
    const text = place.text ?? "";
    const [head = "", wrappedKey = "", body = ""] = text.split(".");
    const flipped = (part: string, at: number) =>
      `${part.slice(0, at)}${part[at] === "A" ? "B" : "A"}${part.slice(at + 1)}`;
    const other = (await openRing()).place.text?.split(".") ?? [];
    const texts = [
      "",
      exportKeyring(ring),
      `kms2.${wrappedKey}.${body}`,
      `${head}.${wrappedKey}`,
      `${head}.${wrappedKey}.`,
      `${head}..${body}`,
      `${text}.`,
      `${text}=`,
      `${head}.${wrappedKey}.${body.slice(0, 36)}`,
      `${head}.${wrappedKey}.${body.slice(4)}`,
      `${head}.${wrappedKey}.${body.slice(0, -4)}`,
      // A wrapped data key and the body of another keyring.
      `${head}.${wrappedKey}.${other[2]}`,
      `${head}.${wrappedKey}.${flipped(body, 0)}`,
      `${head}.${wrappedKey}.${flipped(body, body.length >> 1)}`,
      `${head}.${wrappedKey}.${flipped(body, body.length - 3)}`,
      `${head}.${flipped(wrappedKey, wrappedKey.length >> 1)}.${body}`,
      `${head}.${flipped(wrappedKey, wrappedKey.length - 3)}.${body}`,
    ];
    for (const altered of texts) {
      place.text = altered;
      await refusal(open().load(), "KEYRING_INVALID", ring);
    }
    place.text = `${text}\n`;
    expect(exportKeyring(await open().load())).toBe(exportKeyring(ring));
  });

  it("a provider of kmsKeys writes the format in the README, with a data key that KMS decrypts only with the right encryption context", async () => {
    const { ring, keyId, place } = await openRing(Keyring.generate().rename("production"));
    const [, wrappedKey = "", body = ""] = place.text?.split(".") ?? [];
    const CiphertextBlob = Buffer.from(wrappedKey, "base64url");
    const withContext = (EncryptionContext: Record<string, string>) =>
      account.kms.send(new DecryptCommand({ KeyId: keyId, CiphertextBlob, EncryptionContext }));
    await expect(withContext({})).rejects.toMatchObject({ name: "InvalidCiphertextException" });
    await expect(withContext({ keyward: "staging" })).rejects.toMatchObject({ name: "InvalidCiphertextException" });

    const { Plaintext: dataKey = new Uint8Array() } = await withContext({ keyward: "production" });
    const sealed = Buffer.from(body, "base64url");
    const decipher = createDecipheriv("aes-256-gcm", dataKey, sealed.subarray(0, 12), { authTagLength: 16 });
    decipher.setAAD(Buffer.from("kms1.production"));
    decipher.setAuthTag(sealed.subarray(-16));
    const document = Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]).toString();
    expect(document).toBe(exportKeyring(ring));
  });

  it("a provider of kmsKeys refuses a keyring whose name differs from the value or the default of the option 'name'", async () => {
    const { ring, open } = await openRing(Keyring.generate().rename("production"));
    await refusal(open({ name: "staging" }).load(), "KEYRING_INVALID", ring);
    expect((await open({ name: "production" }).load()).name).toBe("production");
    // The default of `name` is the default name of a keyring.
    const unnamed = kmsKeys({ keyId: "alias/keyward", place: new MemoryLocation(), endpoint: server.endpoint });
    expect((await refusal(unnamed.create(ring), "KEYRING_INVALID", ring)).message).toContain('"keyring"');
  });

  it("rewrap() of kmsKeys wraps the data key again, also under another KMS key, and does not decrypt the keyring", async () => {
    const { ring, keyId, place, proxy, open } = await openRing();
    const before = place.text?.split(".") ?? [];
    expect(await open().rewrap()).toBe(true);
    const after = place.text?.split(".") ?? [];
    expect(proxy.calls).toEqual(["ReEncrypt"]);
    expect(after[1]).not.toBe(before[1]);
    expect(after[2]).toBe(before[2]);
    expect(exportKeyring(await open().load())).toBe(exportKeyring(ring));

    const newKeyId = await account.newKey();
    await expect(open({ keyId: newKeyId }).load()).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    const moving = open({ keyId: newKeyId, formerKeyIds: [keyId] });
    expect(exportKeyring(await moving.load())).toBe(exportKeyring(ring));
    expect(await moving.rewrap()).toBe(true);
    expect(exportKeyring(await open({ keyId: newKeyId }).load())).toBe(exportKeyring(ring));
    await expect(open().load()).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it("a provider of kmsKeys decrypts only with the configured KMS key, even if the wrapped keyring names another KMS key", async () => {
    const { ring, place, open } = await openRing();
    // An attacker who can write to the location has another KMS key, which this process may use too.
    const theirs = await openRing(ring);
    place.text = theirs.place.text;
    await expect(open().load()).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it.each<[string, KeywardErrorCode, string]>([
    ["AccessDeniedException", "PROVIDER_UNAVAILABLE", "kms:Decrypt"],
    ["NotFoundException", "PROVIDER_UNAVAILABLE", "alias/"],
    ["DisabledException", "PROVIDER_UNAVAILABLE", "enable-key"],
    ["KMSInvalidStateException", "PROVIDER_UNAVAILABLE", "cancel-key-deletion"],
    ["IncorrectKeyException", "KEYRING_INVALID", "formerKeyIds"],
    ["InvalidCiphertextException", "KEYRING_INVALID", "name"],
  ])("a load rejects with a specific hint, and is not retried, if KMS answers with %s", async (name, code, hint) => {
    const { ring, proxy, open } = await openRing();
    proxy.fault = () => ({ kind: "error", status: 400, name });
    expect((await refusal(open().load(), code, ring)).hint).toContain(hint);
    expect(proxy.calls).toHaveLength(1);
  });

  it("an error of kmsKeys does not show an encryption key that was passed as the id of a KMS key, even if KMS repeats this id", async () => {
    const { ring, proxy, open } = await openRing();
    for (const given of secretsOf(ring).slice(0, 3)) {
      const message = `User: app is not authorized to perform this on resource: ${given}`;
      for (const name of ["NotFoundException", "AccessDeniedException"]) {
        proxy.fault = () => ({ kind: "error", status: 400, name, message });
        await refusal(open({ keyId: given }).load(), "PROVIDER_UNAVAILABLE", ring);
        await refusal(open({ formerKeyIds: [given] }).rewrap(), "PROVIDER_UNAVAILABLE", ring);
      }
    }
  });

  it("a load is retried if KMS fails, and a store keeps using the loaded keyring while KMS is down", async () => {
    const { proxy, open } = await openRing();
    let faults = 2;
    proxy.fault = () => (faults-- > 0 ? { kind: "error", status: 500, name: "KMSInternalException" } : undefined);
    const keys = open({ refreshMs: 50 });
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", "value");
    expect(proxy.calls).toHaveLength(3);

    const warnings: KeywardError[] = [];
    store.on("provider:error", (error: KeywardError) => warnings.push(error));
    proxy.fault = () => ({ kind: "reset" });
    // The wrapped text has changed, so KMS must be called.
    await open({ endpoint: server.endpoint }).rewrap();
    await vi.waitFor(() => expect(warnings.length).toBeGreaterThan(0), { timeout: 10_000 });
    expect(warnings[0]?.code).toBe("PROVIDER_UNAVAILABLE");
    expect(await store.get("key")).toBe("value");
    await store.disconnect();
  });

  it("a store without a keyring makes few calls to KMS if KMS denies access, however often the store is called", async () => {
    const { proxy, open } = await openRing();
    proxy.fault = () => ({ kind: "error", status: 400, name: "AccessDeniedException" });
    const store = new EncryptedStore(new MemoryStore(), { keys: open() });
    proxy.calls.length = 0;
    for (let call = 0; call < 100; call++) {
      await expect(store.set(`key ${call}`, "value")).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    }
    expect(proxy.calls.length).toBeLessThanOrEqual(4);
    proxy.fault = () => undefined;
    await expect.poll(() => store.set("key", "value").catch(String)).toBe(true);
  });

  it("load() and rewrap() of kmsKeys reject within timeoutMs if KMS does not answer", async () => {
    const { ring, proxy, open } = await openRing();
    proxy.fault = () => ({ kind: "silence" });
    const begun = performance.now();
    const error = await refusal(open({ timeoutMs: 200 }).load(), "PROVIDER_UNAVAILABLE", ring);
    expect(error.message).toContain("kms:Decrypt within");
    await refusal(open({ timeoutMs: 200 }).rewrap(), "PROVIDER_UNAVAILABLE", ring);
    // The default is 15 seconds.
    expect(performance.now() - begun).toBeLessThan(10_000);
  });

  it("a provider of kmsKeys uses the SDK client that the caller passes, and never destroys this client", async () => {
    const { ring, proxy, open } = await openRing();
    const client = new KMSClient({ endpoint: proxy.endpoint });
    onTestFinished(() => client.destroy());
    const destroy = vi.spyOn(client, "destroy");
    expect(exportKeyring(await open({ client }).load())).toBe(exportKeyring(ring));
    expect(destroy).not.toHaveBeenCalled();
  });

  it("a wrapped keyring in the store of the records is not deleted by clear()", async () => {
    const inner = new MemoryStore();
    const keys = kmsKeys({ keyId: await account.newKey(), place: storeLocation(inner), endpoint: server.endpoint });
    await keys.create(Keyring.generate());
    const store = new EncryptedStore(inner, { keys });
    await store.set("keyring", "value");
    await store.clear();
    expect(await keys.load()).toBeInstanceOf(Keyring);
  });

  it.each<[string, Omit<KmsKeysOptions, "place">]>([
    ["no keyId", { keyId: "" }],
    ["an empty former key", { keyId: "alias/keyward", formerKeyIds: [""] }],
    ["a minGeneration of 0", { keyId: "alias/keyward", minGeneration: 0 }],
    ["a timeoutMs of 0", { keyId: "alias/keyward", timeoutMs: 0 }],
    ["an unknown option", Object.assign({ keyId: "alias/keyward" }, { formerKeyId: "alias/former" })],
    ["an endpoint that is not a URL", { keyId: "alias/keyward", endpoint: "kms" }],
  ])("kmsKeys refuses %s", (_, options) => {
    expect(() => kmsKeys({ ...options, place: new MemoryLocation() })).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID" }),
    );
  });
});

it("only kmsKeys needs @aws-sdk/client-kms, and names the command to install this package if it is missing", async () => {
  const program = `
    import { registerHooks } from "node:module";
    registerHooks({
      resolve(specifier, context, next) {
        if (specifier !== "@aws-sdk/client-kms") return next(specifier, context);
        throw Object.assign(new Error("Cannot find package"), { code: "ERR_MODULE_NOT_FOUND" });
      },
    });
    const { awsKeys, kmsKeys } = await import(${JSON.stringify(fileURLToPath(new URL("../src/index.ts", import.meta.url)))});
    awsKeys({ secretId: "ring" });
    const { Keyring } = await import("@keyward/core");
    const place = { read: async () => undefined, replace: async () => true };
    const error = await kmsKeys({ keyId: "alias/keyward", place }).create(Keyring.generate()).catch((error) => error);
    console.log(error.code, error.hint);`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: fileURLToPath(new URL("..", import.meta.url)),
  });
  expect(stdout).toBe("PROVIDER_UNAVAILABLE Run `npm install @aws-sdk/client-kms`.\n");
});
