import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { inspect, promisify } from "node:util";
import {
  CreateSecretCommand,
  DeleteSecretCommand,
  GetSecretValueCommand,
  PutSecretValueCommand,
  SecretsManagerClient,
} from "@aws-sdk/client-secrets-manager";
import { EncryptedStore, exportKeyring, Keyring, type KeywardError, type KeywardErrorCode } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../../../test/servers/moto.ts";
import { type AwsKeysOptions, awsKeys } from "../src/index.ts";
import { Account, newName, refusal, secretsOf, stubEnvironment } from "./account.ts";
import { type Fault, startProxy } from "./aws-proxy.ts";

const run = promisify(execFile);
const servers = await findMoto();
stubEnvironment();

describeWithMoto(servers, "awsKeys", () => {
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

  /** Creates a secret with a keyring, and a proxy between AWS and the providers that read this secret. */
  async function openSecret(ring = Keyring.generate("first")) {
    const secretId = await account.newSecret({ SecretString: exportKeyring(ring) });
    const proxy = await startProxy(server.endpoint);
    onTestFinished(() => proxy.close());
    const open = (options: Partial<AwsKeysOptions> = {}) => awsKeys({ secretId, endpoint: proxy.endpoint, ...options });
    const stored = async () => Keyring.parse((await account.value(secretId)).SecretString ?? "");
    return { secretId, ring, proxy, open, stored };
  }

  describe("save() of awsKeys", () => {
    it("succeeds for exactly one of several concurrent providers, and leaves no label keyward-pending", async () => {
      const { secretId, ring, open, stored } = await openSecret();
      let previous = ring;
      for (let round = 0; round < 5; round++) {
        const rings = Array.from({ length: 5 }, (_, index) => previous.add({ id: `round-${round}-${index}` }));
        const base = previous;
        const outcomes = await Promise.allSettled(rings.map((next) => open().save(next, base)));
        const winners = rings.filter((_, index) => outcomes[index]?.status === "fulfilled");
        expect(winners).toHaveLength(1);
        for (const outcome of outcomes) {
          if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "KEYRING_CONFLICT" });
        }
        previous = await stored();
        expect(exportKeyring(previous)).toBe(exportKeyring(winners[0] ?? ring));
      }
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it("does not replace a keyring that another writer wrote after save had read the secret", async () => {
      const { secretId, ring, proxy, open, stored } = await openSecret();
      const theirs = ring.add({ id: "theirs" });
      // The other writer uses the AWS console, which makes every new version current.
      proxy.fault = async (operation) => {
        if (operation !== "UpdateSecretVersionStage" || (await stored()).generation > ring.generation) return undefined;
        const SecretString = exportKeyring(theirs);
        await account.secretsManager.send(new PutSecretValueCommand({ SecretId: secretId, SecretString }));
        return undefined;
      };
      await refusal(open().save(ring.add({ id: "ours" }), ring), "KEYRING_CONFLICT", ring);
      expect(exportKeyring(await stored())).toBe(exportKeyring(theirs));
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it("writes nothing if the secret does not hold the keyring that was passed as 'previous'", async () => {
      const { ring, proxy, open } = await openSecret();
      const stale = ring.add({ id: "stale" });
      await refusal(open().save(stale.add({ id: "next" }), stale), "KEYRING_CONFLICT", ring);
      expect(proxy.calls).toEqual(["GetSecretValue"]);
    });

    it("succeeds if the answers of AWS to its write requests are lost", async () => {
      const { secretId, ring, proxy, open, stored } = await openSecret();
      const lost = new Set(["PutSecretValue", "UpdateSecretVersionStage"]);
      proxy.fault = (operation) => (lost.delete(operation) ? { kind: "lost" } : undefined);
      const next = ring.add({ id: "second" });
      await open().save(next, ring);
      expect(lost.size).toBe(0);
      expect(exportKeyring(await stored())).toBe(exportKeyring(next));
      // The repeated request made no second version.
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it("succeeds if the answer of AWS is lost and another writer changes the keyring before the request is repeated", async () => {
      const { secretId, ring, proxy, open, stored } = await openSecret();
      const ours = ring.add({ id: "ours" });
      const theirs = ours.add({ id: "theirs" });
      let updates = 0;
      proxy.fault = async (operation) => {
        if (operation !== "UpdateSecretVersionStage") return undefined;
        updates++;
        if (updates === 1) return { kind: "lost" };
        if (updates === 2) await awsKeys({ secretId, endpoint: server.endpoint }).save(theirs, ours);
        return undefined;
      };
      await open().save(ours, ring);
      expect(exportKeyring(await stored())).toBe(exportKeyring(theirs));
    });

    it("reports an unknown result if the connection fails during the write, and the next save removes the label keyward-pending", async () => {
      const { secretId, ring, proxy, open, stored } = await openSecret();
      let put = false;
      proxy.fault = (operation) => {
        put ||= operation === "PutSecretValue";
        return put && operation !== "PutSecretValue" ? { kind: "reset" } : undefined;
      };
      const next = ring.add({ id: "second" });
      const error = await refusal(open().save(next, ring), "PROVIDER_UNAVAILABLE", next);
      expect(error.message).toContain("may hold the old or the new keyring");
      expect(exportKeyring(await stored())).toBe(exportKeyring(ring));
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["keyward-pending"]]);
      proxy.fault = () => undefined;
      await open().save(next, ring);
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"], ["AWSPREVIOUS"]]);
    });

    it("rejects with the name of the IAM action, and does not change the keyring, if AWS denies the action", async () => {
      const { ring, proxy, open, stored } = await openSecret();
      for (const denied of ["PutSecretValue", "UpdateSecretVersionStage"]) {
        proxy.fault = (operation) =>
          operation === denied ? { kind: "error", status: 400, name: "AccessDeniedException" } : undefined;
        const error = await refusal(open().save(ring.add(), ring), "PROVIDER_UNAVAILABLE", ring);
        expect(error.hint).toContain(`secretsmanager:${denied}`);
        expect(exportKeyring(await stored())).toBe(exportKeyring(ring));
      }
    });

    it("refuses a keyring that cannot be saved, before it calls AWS", async () => {
      const { ring, proxy, open } = await openSecret();
      for (const [next, name] of [
        [ring.scope("billing"), "keyring"],
        [Keyring.dangerouslyPlaintext(), "keyring"],
        [ring.rename("another"), "keyring"],
      ] as const) {
        await refusal(open({ name }).save(next, ring), "KEYRING_INVALID", ring);
        await refusal(open({ name }).create(next), "KEYRING_INVALID", ring);
      }
      let large = ring;
      while (Buffer.byteLength(exportKeyring(large)) <= 65_536) {
        const keys = Array.from({ length: 450 }, (_, index) => index);
        large = keys.reduce((grown) => grown.add(), large);
      }
      await refusal(open().create(large), "KEYRING_INVALID", ring);
      expect(proxy.calls).toEqual([]);
    });
  });

  describe("create() of awsKeys", () => {
    /** Creates four keyrings at the same time; exactly one of them must be written. */
    async function createFourAtOnce(secretId: string) {
      const rings = Array.from({ length: 4 }, () => Keyring.generate());
      const open = () => awsKeys({ secretId, endpoint: server.endpoint });
      const outcomes = await Promise.allSettled(rings.map((ring) => open().create(ring)));
      const winners = rings.filter((_, index) => outcomes[index]?.status === "fulfilled");
      expect(winners).toHaveLength(1);
      expect(exportKeyring(await open().load())).toBe(exportKeyring(winners[0] ?? Keyring.generate()));
      return outcomes;
    }

    it("makes a missing secret, and succeeds for only one of several concurrent calls", async () => {
      const secretId = newName();
      const outcomes = await createFourAtOnce(secretId);
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "KEYRING_CONFLICT" });
      }
    });

    it("writes into a secret that has no value, and succeeds for only one of several concurrent calls", async () => {
      const secretId = await account.newSecret();
      await createFourAtOnce(secretId);
      expect(await account.labels(secretId)).toEqual([["AWSCURRENT"]]);
    });

    it("succeeds if the answer of AWS to the first request is lost", async () => {
      const proxy = await startProxy(server.endpoint);
      onTestFinished(() => proxy.close());
      const lost = new Set(["CreateSecret"]);
      proxy.fault = (operation) => (lost.delete(operation) ? { kind: "lost" } : undefined);
      const keys = awsKeys({ secretId: newName(), endpoint: proxy.endpoint });
      const ring = Keyring.generate();
      await keys.create(ring);
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
    });

    it("does not replace an existing keyring", async () => {
      const { ring, open, stored } = await openSecret();
      await refusal(open().create(Keyring.generate()), "KEYRING_CONFLICT", ring);
      expect(exportKeyring(await stored())).toBe(exportKeyring(ring));
    });
  });

  describe("load() of awsKeys", () => {
    it.each<[string, Fault]>([
      ["throttled", { kind: "error", status: 400, name: "ThrottlingException" }],
      ["answered with a server error", { kind: "error", status: 500, name: "InternalServiceError" }],
      ["cut off by a closed connection", { kind: "reset" }],
    ])("is retried if it is %s", async (_, fault) => {
      const { ring, proxy, open } = await openSecret();
      let faults = 2;
      proxy.fault = () => (faults-- > 0 ? fault : undefined);
      expect(exportKeyring(await open().load())).toBe(exportKeyring(ring));
      expect(proxy.calls).toHaveLength(3);
    });

    it.each([
      ["AccessDeniedException", "secretsmanager:GetSecretValue"],
      ["ExpiredTokenException", "expired"],
      ["DecryptionFailure", "kms:Decrypt"],
      ["UnknownOperationException", "API reference"],
    ])("is not retried if AWS answers with the error %s", async (name, hint) => {
      const { ring, proxy, open } = await openSecret();
      proxy.fault = () => ({ kind: "error", status: 400, name });
      const error = await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring);
      expect(error.hint).toContain(hint);
      expect(proxy.calls).toHaveLength(1);
    });

    it("is not retried if AWS rejects the credentials", async () => {
      const guarded = await startMoto(servers);
      onTestFinished(() => guarded.stop());
      const proxy = await startProxy(guarded.endpoint);
      onTestFinished(() => proxy.close());
      // From now on, moto checks credentials.
      await fetch(`${guarded.endpoint}/moto-api/reset-auth`, { method: "POST", body: "0" });
      const keys = awsKeys({ secretId: newName(), endpoint: proxy.endpoint });
      const error = await refusal(keys.load(), "PROVIDER_UNAVAILABLE", Keyring.generate());
      expect(error.message).toContain("rejected the credentials");
      expect(proxy.calls).toHaveLength(1);
    });

    it("quotes the message of AWS in the error's cause only if access was denied", async () => {
      const { ring, proxy, open } = await openSecret();
      const message = "User: arn:aws:iam::123456789012:user/app is not authorized to perform this action";
      proxy.fault = () => ({ kind: "error", status: 400, name: "AccessDeniedException", message });
      const error = await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring);
      expect(error.cause).toMatchObject({ message: expect.stringContaining(message) });
      proxy.fault = () => ({ kind: "error", status: 400, name: "InvalidSignatureException", message });
      expect(inspect(await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring))).not.toContain("user/app");
    });

    it("rejects within timeoutMs if AWS does not answer, and at once if the caller aborts", async () => {
      const { ring, proxy, open } = await openSecret();
      proxy.fault = () => ({ kind: "silence" });
      const begun = performance.now();
      await refusal(open({ timeoutMs: 200 }).load(), "PROVIDER_UNAVAILABLE", ring);
      const controller = new AbortController();
      const reason = new Error("no longer wanted");
      const loading = open().load({ signal: controller.signal });
      controller.abort(reason);
      await expect(loading).rejects.toBe(reason);
      // The default is 15 seconds.
      expect(performance.now() - begun).toBeLessThan(10_000);
    });

    it("rejects during the pause before a retry if timeoutMs ends or the caller aborts", async () => {
      const { proxy, open } = await openSecret();
      proxy.fault = () => ({ kind: "error", status: 400, name: "ThrottlingException", retryAfterSeconds: 10 });
      const client = new SecretsManagerClient({ endpoint: proxy.endpoint });
      onTestFinished(() => client.destroy());
      const begun = performance.now();
      await refusal(open({ client, timeoutMs: 100 }).load(), "PROVIDER_UNAVAILABLE", Keyring.generate());
      await refusal(
        open({ client, timeoutMs: 100 }).create(Keyring.generate()),
        "PROVIDER_UNAVAILABLE",
        Keyring.generate(),
      );
      expect(performance.now() - begun).toBeLessThan(10_000);
      proxy.calls.length = 0;
      const controller = new AbortController();
      const reason = new Error("no longer wanted");
      const loading = open().load({ signal: controller.signal });
      await vi.waitFor(() => expect(proxy.calls).toHaveLength(1), 20_000);
      controller.abort(reason);
      await expect(loading).rejects.toBe(reason);
      expect(proxy.calls).toHaveLength(1);
    });

    it("rejects within timeoutMs if the function that returns the credentials does not answer", async () => {
      const { ring, secretId, proxy } = await openSecret();
      const credentials = () => new Promise<never>(() => undefined);
      const client = new SecretsManagerClient({ endpoint: proxy.endpoint, credentials });
      onTestFinished(() => client.destroy());
      const begun = performance.now();
      await refusal(awsKeys({ secretId, client, timeoutMs: 100 }).load(), "PROVIDER_UNAVAILABLE", ring);
      await refusal(awsKeys({ secretId, client, timeoutMs: 100 }).save(ring.add(), ring), "PROVIDER_UNAVAILABLE", ring);
      expect(performance.now() - begun).toBeLessThan(10_000);
      expect(proxy.calls).toEqual([]);
    });

    it("makes one call to AWS for any number of concurrent loads", async () => {
      const { proxy, open } = await openSecret();
      const keys = open();
      await Promise.all(Array.from({ length: 50 }, () => keys.load()));
      expect(proxy.calls).toHaveLength(1);
    });

    it("rejects with a different hint for each problem with the secret", async () => {
      const ring = Keyring.generate();
      const hints: string[] = [];
      const ask = async (secretId: string, code: KeywardErrorCode) => {
        const { hint } = await refusal(awsKeys({ secretId, endpoint: server.endpoint }).load(), code, ring);
        hints.push(hint);
        return hint;
      };
      expect(await ask(newName(), "PROVIDER_UNAVAILABLE")).toContain("Check `secretId` and `region`");
      const deleted = await account.newSecret({ SecretString: exportKeyring(ring) });
      await account.secretsManager.send(new DeleteSecretCommand({ SecretId: deleted }));
      expect(await ask(deleted, "PROVIDER_UNAVAILABLE")).toContain("restore-secret");
      const bytes = await account.newSecret({ SecretBinary: Buffer.alloc(33, 0xff) });
      expect(await ask(bytes, "KEYRING_INVALID")).toContain("one key of 32 bytes");
      const key = await account.newSecret({ SecretString: Buffer.alloc(31, 7).toString("base64") });
      expect(await ask(key, "KEYRING_INVALID")).toContain("openssl rand -base64 32");
      const other = await account.newSecret({ SecretString: JSON.stringify({ username: "app" }) });
      expect(await ask(other, "KEYRING_INVALID")).toContain("set the option `field`");
      expect(new Set(hints).size).toBe(hints.length);

      // The message of AWS for a secret without a value. moto answers as if the secret did not exist.
      const { proxy, open } = await openSecret();
      const message = "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT";
      proxy.fault = () => ({ kind: "error", status: 400, name: "ResourceNotFoundException", message });
      expect((await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring)).hint).toContain(
        "If no keyring has existed yet",
      );
    });

    it("rejects with an error that does not contain a message of AWS that repeats the keyring", async () => {
      const { ring, proxy, open } = await openSecret();
      const message = `Value '${exportKeyring(ring)}' at 'secretString' failed to satisfy a constraint`;
      const { keys }: { keys: { material: string }[] } = JSON.parse(exportKeyring(ring));
      const material = keys[0]?.material ?? "";
      const names = [
        "InvalidParameterException",
        "ValidationException",
        Buffer.from(material, "base64url").toString("hex"),
      ];
      for (const name of names) {
        proxy.fault = () => ({ kind: "error", status: 400, name, message });
        await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring);
      }
    });

    it("rejects with an error that does not show a key that was passed as secretId", async () => {
      const ring = Keyring.generate();
      for (const secretId of secretsOf(ring).slice(0, 3)) {
        await refusal(awsKeys({ secretId, endpoint: server.endpoint }).load(), "PROVIDER_UNAVAILABLE", ring);
      }
    });

    it("rejects with an error that does not show a passphrase that was passed as secretId", async () => {
      const secretId = "passphrase:correct-horse-battery-staple";
      const keys = awsKeys({ secretId, endpoint: server.endpoint });
      expect(inspect(await refusal(keys.load(), "PROVIDER_UNAVAILABLE", Keyring.generate()))).not.toContain("horse");
    });

    it("rejects with an error that does not show a key that was passed as secretId, even if AWS repeats the key", async () => {
      const { proxy } = await openSecret();
      const ring = Keyring.generate();
      for (const secretId of secretsOf(ring).slice(0, 3)) {
        const message = `User: app is not authorized to perform: GetSecretValue on resource: ${secretId}`;
        proxy.fault = () => ({ kind: "error", status: 400, name: "AccessDeniedException", message });
        await refusal(awsKeys({ secretId, endpoint: proxy.endpoint }).load(), "PROVIDER_UNAVAILABLE", ring);
      }
    });

    it("reads the keyring in a replica of a secret, and does not save to the replica", async () => {
      const [secretId, ring] = [newName(), Keyring.generate()];
      const replicas = { AddReplicaRegions: [{ Region: "us-east-1" }] };
      const secret = { Name: secretId, SecretString: exportKeyring(ring), ...replicas };
      await account.secretsManager.send(new CreateSecretCommand(secret));
      const keys = awsKeys({ secretId, region: "us-east-1", endpoint: server.endpoint });
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
      const error = await refusal(keys.save(ring.add(), ring), "PROVIDER_READ_ONLY", ring);
      expect(error.hint).toContain("primary secret");
    });

    it("refuses a keyring whose name differs from the value of the option 'name'", async () => {
      const { ring, open } = await openSecret();
      await refusal(open({ name: "production" }).load(), "KEYRING_ROLLBACK", ring);
      expect((await open({ name: ring.name }).load()).name).toBe(ring.name);
    });
  });

  describe("the SDK client of awsKeys", () => {
    it("is used and never destroyed if the caller passes it", async () => {
      const { secretId, ring, proxy } = await openSecret();
      const client = new SecretsManagerClient({ endpoint: proxy.endpoint });
      onTestFinished(() => client.destroy());
      const destroy = vi.spyOn(client, "destroy");
      const keys = awsKeys({ secretId, client });
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
      const store = new EncryptedStore(new Map(), { keys });
      await store.set("key", "value");
      await store.disconnect();
      expect(destroy).not.toHaveBeenCalled();
      expect(await client.send(new GetSecretValueCommand({ SecretId: secretId }))).toMatchObject({ Name: secretId });
    });

    it("uses the region in the ARN of the secret, even if AWS_REGION names another region", async () => {
      const { ARN: secretId = "" } = await account.value(
        await account.newSecret({ SecretString: exportKeyring(Keyring.generate()) }),
      );
      expect(secretId).toContain(":eu-central-1:");
      vi.stubEnv("AWS_REGION", "us-east-1");
      try {
        const keys = awsKeys({ secretId, endpoint: server.endpoint });
        expect(await keys.load()).toBeInstanceOf(Keyring);
      } finally {
        stubEnvironment();
      }
    });

    it("fails with an error about credentials if the credentials are missing, and about AWS_REGION if the region is missing", async () => {
      const ring = Keyring.generate();
      try {
        for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) vi.stubEnv(name, undefined);
        const noCredentials = awsKeys({ secretId: newName(), endpoint: server.endpoint });
        expect((await refusal(noCredentials.load(), "PROVIDER_UNAVAILABLE", ring)).message).toContain("credentials");
        stubEnvironment();
        vi.stubEnv("AWS_REGION", undefined);
        const noRegion = awsKeys({ secretId: newName(), endpoint: server.endpoint });
        expect((await refusal(noRegion.load(), "PROVIDER_UNAVAILABLE", ring)).hint).toContain("AWS_REGION");
      } finally {
        stubEnvironment();
      }
    });

    it("fails with an error about AWS_WEB_IDENTITY_TOKEN_FILE if the token file cannot be read", async () => {
      const names = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"] as const;
      try {
        for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) vi.stubEnv(name, undefined);
        vi.stubEnv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app");
        for (const path of ["/nonexistent/token", "/"]) {
          vi.stubEnv("AWS_WEB_IDENTITY_TOKEN_FILE", path);
          const keys = awsKeys({ secretId: newName(), endpoint: server.endpoint });
          const error = await refusal(keys.load(), "PROVIDER_UNAVAILABLE", Keyring.generate());
          expect(error.message).toContain("a file with AWS credentials cannot be read");
          expect(error.hint).toContain("AWS_WEB_IDENTITY_TOKEN_FILE");
        }
      } finally {
        for (const name of names) vi.stubEnv(name, undefined);
        stubEnvironment();
      }
    });

    it("fails with an error about the trust policy if the process may not assume its role", async () => {
      const { ring, proxy, open } = await openSecret();
      const message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
      proxy.fault = () => ({ kind: "error", status: 403, name: "AccessDenied", message });
      const error = await refusal(open().load(), "PROVIDER_UNAVAILABLE", ring);
      expect(error.message).toContain("may not assume its role (sts:AssumeRoleWithWebIdentity)");
      expect(error.hint).toContain("trust policy");
    });

    it("prints no credential if NODE_DEBUG makes Node.js print details of connections", async () => {
      const { secretId, ring, proxy } = await openSecret();
      const script = `
        import { awsKeys } from "@keyward/keys-aws";
        console.log(String(await awsKeys(JSON.parse(process.env.AT)).load()));
      `;
      const sessionToken = "c0ffee//session+token";
      const env = {
        ...process.env,
        AT: JSON.stringify({ secretId, endpoint: proxy.endpoint }),
        AWS_SESSION_TOKEN: sessionToken,
        DEBUG: "*",
        NODE_DEBUG: "net,tls,http,https,http2,undici,fetch,stream",
      };
      const cwd = fileURLToPath(new URL("../../..", import.meta.url));
      const options = { cwd, env, timeout: 30_000, maxBuffer: 2 ** 27 };
      const { stdout, stderr } = await run(process.execPath, ["--input-type=module", "--eval", script], options);
      expect(stdout).toContain("first");
      expect(stderr).toContain("createConnection");
      for (const secret of [...secretsOf(ring), sessionToken, "AWS4-HMAC-SHA256"]) {
        expect(`${stdout}${stderr}`.includes(secret)).toBe(false);
      }
    });

    it("fails with a hint that first advises to restore the keyring if the secret is missing", async () => {
      const keys = awsKeys({ secretId: newName(), endpoint: server.endpoint });
      const { hint } = await refusal(keys.load(), "PROVIDER_UNAVAILABLE", Keyring.generate());
      expect(hint).toMatch(/because a new keyring cannot decrypt existing records\. If no keyring has existed yet/);
    });

    it.each<[string, object]>([
      ["an unknown option", { refreshMS: 1_000 }],
      ["an endpoint that is not a URL", { endpoint: "vpce.amazonaws.com" }],
      ["a password in the endpoint", { endpoint: "https://user:c0ffee-password@vpce.amazonaws.com" }],
    ])("is not created if awsKeys is called with %s in untyped code, and no password is shown", (_, change) => {
      let caught: unknown;
      try {
        awsKeys(Object.assign({ secretId: "ring" }, change));
      } catch (error) {
        caught = error;
      }
      expect(caught).toMatchObject({ code: "VALUE_INVALID" });
      expect(inspect(caught, { depth: Number.POSITIVE_INFINITY, showHidden: true })).not.toContain("c0ffee");
    });

    it.each<[string, AwsKeysOptions]>([
      ["no secretId", { secretId: "" }],
      ["a refreshMs of 0", { secretId: "ring", refreshMs: 0 }],
      ["a maxAgeMs that is not longer than timeoutMs", { secretId: "ring", maxAgeMs: 1_000 }],
    ])("is not created if awsKeys is called with %s", (_, options) => {
      expect(() => awsKeys(options)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
    });
  });

  describe("a store with awsKeys", () => {
    it("keeps using the loaded keyring while AWS is down, and loads a changed keyring when AWS works again", async () => {
      const own = await startMoto(servers);
      onTestFinished(() => own.stop());
      const operator = awsKeys({ secretId: newName(), endpoint: own.endpoint });
      const secretId = newName();
      const ring = Keyring.generate("first");
      await awsKeys({ secretId, endpoint: own.endpoint }).create(ring);
      const keys = awsKeys({ secretId, endpoint: own.endpoint, refreshMs: 50 });
      const store = new EncryptedStore(new MemoryStore(), { keys });
      const warnings: KeywardError[] = [];
      store.on("provider:error", (error: KeywardError) => warnings.push(error));
      await store.set("before", "value");

      await own.kill();
      await vi.waitFor(() => expect(warnings.length).toBeGreaterThan(0), { timeout: 10_000 });
      expect(warnings[0]?.message).toContain("cannot be reached");
      await store.set("during", "value");
      expect(await store.getMany(["before", "during"])).toEqual(["value", "value"]);

      // moto restarts without its data, as if the secret had been deleted.
      await own.restart();
      await vi.waitFor(() => expect(warnings.at(-1)?.message).toContain("does not exist"), { timeout: 10_000 });
      expect(await store.get("during")).toBe("value");
      const changed = vi.fn();
      store.on("keyring:changed", changed);
      await awsKeys({ secretId, endpoint: own.endpoint }).create(ring.add({ id: "second" }).promote("second"));
      await vi.waitFor(() => expect(changed).toHaveBeenCalled(), { timeout: 10_000 });
      await store.set("after", "value");
      expect(await store.getMany(["before", "during", "after"])).toEqual(["value", "value", "value"]);
      await store.disconnect();
      await refusal(operator.load(), "PROVIDER_UNAVAILABLE", ring);
    });

    it("makes few calls to AWS, however often the store is called, if the store has no keyring and AWS denies access", async () => {
      const { proxy, open } = await openSecret();
      proxy.fault = () => ({ kind: "error", status: 400, name: "AccessDeniedException" });
      const store = new EncryptedStore(new MemoryStore(), { keys: open() });
      for (let call = 0; call < 100; call++) {
        await expect(store.set(`key ${call}`, "value")).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      }
      expect(proxy.calls.length).toBeLessThanOrEqual(4);
      proxy.fault = () => undefined;
      await expect.poll(() => store.set("key", "value").catch(String)).toBe(true);
    });

    it("rejects with the name of the AWS call that timed out if no keyring was loaded before", async () => {
      const { ring, proxy, open } = await openSecret();
      proxy.fault = () => ({ kind: "silence" });
      const store = new EncryptedStore(new MemoryStore(), { keys: open({ timeoutMs: 300 }) });
      const error = await refusal(store.set("key", "value"), "PROVIDER_UNAVAILABLE", ring);
      expect(error.message).toContain("secretsmanager:GetSecretValue");
    });

    it("makes one call to AWS for a thousand reads of records under a new key", async () => {
      const { ring, proxy, open } = await openSecret();
      const inner = new MemoryStore();
      const names = Array.from({ length: 1_000 }, (_, index) => `key ${index}`);
      const store = new EncryptedStore(inner, { keys: open() });
      await store.set("old", "value");
      const next = ring.add({ id: "second" }).promote("second");
      await open().save(next, ring);
      await new EncryptedStore(inner, { keys: next }).setMany(names.map((key) => ({ key, value: key })));
      proxy.calls.length = 0;
      expect(await Promise.all(names.map((key) => store.get(key)))).toEqual(names);
      expect(proxy.calls).toEqual(["GetSecretValue"]);
    });
  });
});
