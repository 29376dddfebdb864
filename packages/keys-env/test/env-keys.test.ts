import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { exportKeyring, Keyring } from "@keyward/core";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { envKeys } from "../src/index.ts";
import { rejection } from "./shown.ts";

const key = () => randomBytes(32).toString("base64");
const materials = (ring: Keyring) =>
  [...exportKeyring(ring).matchAll(/"material": "(.{43})"/g)].map(([, material]) => `${material}`);
const material = (value: string) => Buffer.from(value, "base64").toString("base64url");

it("envKeys refuses an undefined, null or empty name, which untyped code may pass", () => {
  for (const given of [undefined, null, ""]) {
    expect(() => Reflect.apply(envKeys, undefined, [given])).toThrow(expect.objectContaining({ code: "KEY_INVALID" }));
  }
});

describe("<NAME>_OTHERS, the environment variable of the additional keys,", () => {
  it("provides additional keys that are enabled and not primary", async () => {
    const [primary, earlier, next] = [key(), key(), key()];
    const env = { APP_KEY: primary, APP_KEY_OTHERS: ` ${earlier} ,\n2027-01=${next}\n` };
    const ring = await envKeys("APP_KEY", { env }).load();
    expect(ring.primary).toBe(Keyring.fromKeys([{ material: Buffer.from(primary, "base64") }]).primary);
    expect(materials(ring)).toEqual([material(primary), material(earlier), material(next)]);
    expect(ring.keys.map(({ status }) => status)).toEqual(["enabled", "enabled", "enabled"]);
    expect(ring.keys[2]?.id).toBe("2027-01");
  });

  it("may contain the primary key, and may contain a key twice, because this happens during a rotation", async () => {
    const [primary, other] = [key(), key()];
    const env = { APP_KEY: primary, APP_KEY_OTHERS: [other, primary, other, `hex:${hexOf(primary)}`].join(",") };
    expect(materials(await envKeys("APP_KEY", { env }).load())).toEqual([material(primary), material(other)]);
  });

  it.each([
    ["two ids for one key", (a: string, _b: string) => [`one=${a}`, `two=${a}`], "KEYRING_INVALID"],
    ["two keys for one id", (a: string, b: string) => [`one=${a}`, `one=${b}`], "KEYRING_INVALID"],
    ["a trailing comma", (a: string, b: string) => [a, `${b},`], "KEY_INVALID"],
    ["a cut key", (a: string, b: string) => [a, `${a},${b.slice(4)}`], "KEY_INVALID"],
    ["a document", (a: string, _b: string) => [a, exportKeyring(Keyring.generate())], "KEY_INVALID"],
    ["a document as primary", (_a: string, b: string) => [exportKeyring(Keyring.generate()), b], "KEYRING_INVALID"],
  ])("is refused if the keys are invalid: %s", async (_name, values, code) => {
    const [APP_KEY, APP_KEY_OTHERS] = values(key(), key());
    const error = await rejection(envKeys("APP_KEY", { env: { APP_KEY, APP_KEY_OTHERS } }).load());
    expect(error).toMatchObject({ code, message: expect.stringContaining("APP_KEY_OTHERS") });
  });

  it("is refused with the position of the invalid key if one of its keys is invalid", async () => {
    const env = { APP_KEY: key(), APP_KEY_OTHERS: `${key()},${key()},${key().slice(8)},${key()}` };
    const error = await rejection(envKeys("APP_KEY", { env }).load());
    expect(error).toMatchObject({ message: expect.stringContaining("key 3 of 4") });
  });

  it("is refused if neither <NAME> nor <NAME>_FILE is set, whatever value the option whenMissing has", async () => {
    const options = { env: { APP_KEY_OTHERS: key() }, whenMissing: "plaintext", warn: () => {} } as const;
    expect(await rejection(envKeys("APP_KEY", options).load())).toMatchObject({ code: "KEYRING_INVALID" });
  });

  it("may be empty", async () => {
    const ring = await envKeys("APP_KEY", { env: { APP_KEY: key(), APP_KEY_OTHERS: "" } }).load();
    expect(ring.keys).toHaveLength(1);
    const document = exportKeyring(Keyring.generate());
    const whole = await envKeys("APP_KEY", { env: { APP_KEY: document, APP_KEY_OTHERS: " " } }).load();
    expect(exportKeyring(whole)).toBe(document);
  });
});

describe("<NAME>_FILE, the environment variable with a path,", () => {
  let directory: string;
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "keyward-env-"));
  });
  afterAll(() => rm(directory, { recursive: true }));

  it("names a file that is read at each load and watched for changes, also if <NAME>_OTHERS is set", async () => {
    const path = join(directory, "watched");
    const [first, second, other] = [key(), key(), key()];
    await writeFile(path, `${first}\n`);
    const provider = envKeys("APP_KEY", { env: { APP_KEY_FILE: path, APP_KEY_OTHERS: other } });
    expect(materials(await provider.load())).toEqual([material(first), material(other)]);
    const changed = vi.fn();
    const end = provider.subscribe?.(changed);
    try {
      await writeFile(path, `next=${second}\n`);
      await vi.waitFor(() => expect(changed).toHaveBeenCalled(), 10_000);
      expect(materials(await provider.load())).toEqual([material(second), material(other)]);
    } finally {
      end?.();
    }
  });

  it("may have white space around the path, but is refused if it holds only white space", async () => {
    const [path, value] = [join(directory, "spaced"), key()];
    await writeFile(path, value);
    expect(materials(await envKeys("APP_KEY", { env: { APP_KEY_FILE: `${path}\r\n` } }).load())).toEqual([
      material(value),
    ]);
    const blank = await rejection(envKeys("APP_KEY", { env: { APP_KEY_FILE: " \n" } }).load());
    expect(blank).toMatchObject({ code: "KEY_INVALID", message: expect.stringContaining("empty") });
  });

  it("is refused if <NAME> is set as well", async () => {
    const path = join(directory, "both");
    await writeFile(path, key());
    const error = await rejection(envKeys("APP_KEY", { env: { APP_KEY: key(), APP_KEY_FILE: path } }).load());
    expect(error).toMatchObject({ code: "KEYRING_INVALID", message: expect.stringContaining("APP_KEY_FILE") });
  });

  it.each(["error", "generate", "plaintext"] as const)(
    "is refused if the path is empty or does not exist, also with whenMissing: %s",
    async (mode) => {
      const options = { env: { APP_KEY_FILE: join(directory, "nothing") }, whenMissing: mode, warn: () => {} };
      expect(await rejection(envKeys("APP_KEY", options).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      const empty = { ...options, env: { APP_KEY_FILE: "" } };
      expect(await rejection(envKeys("APP_KEY", empty).load())).toMatchObject({ code: "KEY_INVALID" });
    },
  );
});

describe("the option whenMissing of envKeys", () => {
  it("makes load reject by default with an error that names the environment variables and the command to make a key", async () => {
    expect(await rejection(envKeys("APP_KEY", { env: {} }).load())).toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringMatching(/APP_KEY .*APP_KEY_FILE/),
      hint: expect.stringContaining("openssl rand -base64 32"),
    });
  });

  it('"generate" makes one random key, warns once, and returns this key at each load', async () => {
    const warn = vi.fn();
    const provider = envKeys("APP_KEY", { env: {}, whenMissing: "generate", warn });
    const rings = await Promise.all([provider.load(), provider.load(), provider.load()]);
    rings.push(await provider.load());
    expect(new Set(rings.map(exportKeyring)).size).toBe(1);
    expect(warn).toHaveBeenCalledExactlyOnceWith(
      expect.stringContaining("unreadable after a restart"),
      "KEYWARD_KEY_GENERATED",
    );
    const other = await envKeys("APP_KEY", { env: {}, whenMissing: "generate", warn }).load();
    expect(other.primary).not.toBe(rings[0]?.primary);
  });

  it('"plaintext" makes load return a keyring without keys and warn once', async () => {
    const warn = vi.fn();
    const provider = envKeys("APP_KEY", { env: {}, whenMissing: "plaintext", warn });
    expect((await provider.load()).primary).toBe("");
    expect((await provider.load()).keys).toHaveLength(0);
    expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringContaining("unencrypted"), "KEYWARD_PLAINTEXT");
  });

  it("makes load warn through process.emitWarning if the option warn is not set", async () => {
    const warned = new Promise<Error & { code?: string }>((resolve) => process.once("warning", resolve));
    await envKeys("APP_KEY", { env: {}, whenMissing: "plaintext" }).load();
    expect(await warned).toMatchObject({ name: "KeywardWarning", code: "KEYWARD_PLAINTEXT" });
  });

  it.each(["generate", "plaintext"] as const)(
    "%s is refused in production unless dangerouslyAllowInProduction is true",
    async (whenMissing) => {
      const warn = vi.fn();
      const production = { env: { NODE_ENV: "production" }, whenMissing, warn };
      expect(await rejection(envKeys("APP_KEY", production).load())).toMatchObject({
        code: "PROVIDER_UNAVAILABLE",
        message: expect.stringContaining("production"),
      });
      expect(warn).not.toHaveBeenCalled();
      await envKeys("APP_KEY", { ...production, dangerouslyAllowInProduction: true }).load();
      expect(warn).toHaveBeenCalledOnce();
    },
  );

  it('"plaintext" is refused if NODE_ENV of the process is production, even if the option env has no NODE_ENV', async () => {
    vi.stubEnv("NODE_ENV", "production");
    try {
      const options = { env: {}, whenMissing: "plaintext", warn: () => {} } as const;
      expect(await rejection(envKeys("APP_KEY", options).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it.each(["error", "generate", "plaintext"] as const)(
    "%s no longer applies after a key was loaded, even if the key is removed",
    async (whenMissing) => {
      const env: Record<string, string> = { APP_KEY: key() };
      const warn = vi.fn();
      const provider = envKeys("APP_KEY", { env, whenMissing, warn });
      await provider.load();
      delete env["APP_KEY"];
      expect(await rejection(provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      expect(warn).not.toHaveBeenCalled();
    },
  );

  it.each(["generate", "plaintext"] as const)(
    "%s applies until a first key is set, and does not apply again if this key is removed",
    async (whenMissing) => {
      const env: Record<string, string> = {};
      const provider = envKeys("APP_KEY", { env, whenMissing, warn: () => {} });
      await provider.load();
      env["APP_KEY"] = key();
      expect(materials(await provider.load())).toEqual([material(env["APP_KEY"])]);
      delete env["APP_KEY"];
      expect(await rejection(provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    },
  );

  it("does not apply if the key is invalid or empty, and does not apply after an invalid key was removed", async () => {
    const env: Record<string, string> = { APP_KEY: key().slice(4) };
    const provider = envKeys("APP_KEY", { env, whenMissing: "plaintext", warn: () => {} });
    expect(await rejection(provider.load())).toMatchObject({ code: "KEY_INVALID" });
    delete env["APP_KEY"];
    expect(await rejection(provider.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    const empty = envKeys("APP_KEY", { env: { APP_KEY: "" }, whenMissing: "plaintext", warn: () => {} });
    expect(await rejection(empty.load())).toMatchObject({ code: "KEY_INVALID" });
  });
});

it("two processes with the same environment variables get the same key ids from envKeys", async () => {
  const env = { ...process.env, APP_KEY: key(), APP_KEY_OTHERS: `${key()},passphrase:${key()}` };
  const script = `
    import { envKeys } from "@keyward/keys-env";
    process.stdout.write(JSON.stringify(await envKeys("APP_KEY").load()));
  `;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", script], {
    env,
    cwd: fileURLToPath(new URL("../../..", import.meta.url)),
  });
  expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(await envKeys("APP_KEY", { env }).load())));
});

it.each(["", "APP KEY", "1KEY", "APP-KEY", "APP_KEY="])(
  "envKeys refuses %j as the name of an environment variable",
  (name) => {
    expect(() => envKeys(name)).toThrow(expect.objectContaining({ code: "KEY_INVALID" }));
  },
);

function hexOf(value: string): string {
  return Buffer.from(value, "base64").toString("hex");
}
