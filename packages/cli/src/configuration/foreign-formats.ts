import {
  compactJwe,
  cryptoJs,
  type DecryptedValue,
  type ForeignFormat,
  fernet,
  iron,
  KeywardError,
  keyvEncryptNode,
  laravel,
  openssl,
  packageNotLoaded,
  plaintext,
  secretbox,
} from "@keyward/core";
import { CommandError } from "../exit-codes.ts";
import { readOldKey } from "./old-key.ts";

/** A format of encrypted records that the flag `--from` can name. */
interface NamedFormat {
  /** Describes the text of an old key of this format, for a hint. */
  readonly keyText: string;
  /** Makes the format. Without `value`, the format has its own default. */
  make(keys: readonly string[], value: { readonly value?: DecryptedValue }): ForeignFormat | Promise<ForeignFormat>;
}

const plaintextName = "plaintext";

const encryptedFormats: Readonly<Record<string, NamedFormat>> = {
  "keyv-encrypt-node": {
    keyText: "the text that the application passed to KeyvEncryptNode as `key`",
    make: (key, value) => keyvEncryptNode({ key, ...value }),
  },
  fernet: {
    keyText: "32 bytes in base64url, as Fernet.generate_key() returns them",
    make: (key, value) => fernet({ key, ...value }),
  },
  laravel: {
    keyText: "the value of APP_KEY, with its prefix base64:",
    make: (key, value) => laravel({ key, ...value }),
  },
  iron: { keyText: "the password of the seals", make: (password, value) => iron({ password, ...value }) },
  cryptojs: { keyText: "the passphrase", make: (passphrase, value) => cryptoJs({ passphrase, ...value }) },
  openssl: {
    keyText: "the passphrase of `openssl enc -aes-256-cbc` without -pbkdf2",
    make: (passphrase, value) => openssl({ passphrase, ...value }),
  },
  jwe: {
    keyText: "the content encryption key in base64url, as in the field `k` of a JWK",
    make: (key, value) => compactJwe({ key, ...value }),
  },
  secretbox: {
    keyText: "32 bytes in base64",
    async make(key, value) {
      const { default: sodium } = await import("libsodium-wrappers").catch(
        packageNotLoaded("libsodium-wrappers", "The format secretbox", "VALUE_INVALID"),
      );
      await sodium.ready;
      return secretbox({ key, open: sodium.crypto_secretbox_open_easy, ...value });
    },
  },
};

/** The names that the flag `--from` can have. */
export const formatNames: readonly string[] = [plaintextName, ...Object.keys(encryptedFormats)];

/** The formats that need options, which only a configuration file can pass. */
const formatsWithOptions: Readonly<Record<string, string>> = {
  "aes-gcm": "aesGcm",
  aesgcm: "aesGcm",
  "aes-cbc": "aesCbc",
  aescbc: "aesCbc",
};

/** One flag `--from`: `<format>[:<value>][=<old key>]`. */
interface From {
  readonly name: string;
  readonly value: DecryptedValue | undefined;
  readonly key: string | undefined;
}

/**
 * Returns the formats that the flags `--from` name. Several flags with the same format add their keys to one format.
 *
 * @param texts the values of the flags.
 * @throws CommandError `USAGE` for an unknown format, and for a format with a missing or an invalid key. No message
 * contains a value of the flags, which may be a key.
 */
export async function formatsFrom(
  texts: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<readonly ForeignFormat[]> {
  const flags = texts.map(parse);
  const formats: ForeignFormat[] = [];
  for (const name of new Set(flags.map((flag) => flag.name))) {
    const named = flags.filter((flag) => flag.name === name);
    if (new Set(named.map(({ value }) => value)).size > 1) {
      throw usage(
        `Two flags --from ${name} have different values after the colon`,
        `Write the same value after each colon: \`--from ${name}:json=current.key --from ${name}:json=former.key\`.`,
      );
    }
    const value = named[0]?.value;
    try {
      formats.push(await makeFormat(name, named, value === undefined ? {} : { value }, env));
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { keyText } = encryptedFormats[name] ?? {};
      const hint = error.code === "KEY_INVALID" && keyText !== undefined ? `The old key is ${keyText}.` : error.hint;
      throw usage(`The flag --from ${name} cannot be used: ${error.message}`, hint);
    }
  }
  return formats;
}

async function makeFormat(
  name: string,
  flags: readonly From[],
  value: { readonly value?: DecryptedValue },
  env: Readonly<Record<string, string | undefined>>,
): Promise<ForeignFormat> {
  const format = encryptedFormats[name];
  if (format === undefined) {
    if (flags.some(({ key }) => key !== undefined))
      throw usage("Plaintext has no old key", "Write `--from plaintext`.");
    return plaintext(value);
  }
  const keys: string[] = [];
  for (const { key } of flags) {
    if (key === undefined || key === "") {
      throw usage(
        `The format ${name} needs an old key`,
        `Write \`--from ${name}=<path>\` for a file, or \`--from ${name}=env:NAME\` for an environment variable. The old key is ${format.keyText}.`,
      );
    }
    keys.push(await readOldKey(key, name, env));
  }
  return await format.make(keys, value);
}

function parse(text: string): From {
  const equals = text.indexOf("=");
  const head = equals === -1 ? text : text.slice(0, equals);
  const key = equals === -1 ? undefined : text.slice(equals + 1);
  const colon = head.indexOf(":");
  const name = colon === -1 ? head : head.slice(0, colon);
  const value = colon === -1 ? undefined : readValue(head.slice(colon + 1));
  if (formatNames.includes(name)) return { name, value, key };
  const withOptions = Object.hasOwn(formatsWithOptions, name) ? formatsWithOptions[name] : undefined;
  if (withOptions !== undefined) {
    throw usage(
      "The formats aes-gcm and aes-cbc need options, which the flag --from cannot have",
      `List \`${withOptions}({ … })\` in the setting \`accept\` of keyward.config.ts, as docs/migration.md shows, and omit --from.`,
    );
  }
  throw usage(
    "A flag --from names an unknown format",
    `The formats are ${formatNames.join(", ")}. List any other format in the setting \`accept\` of keyward.config.ts.`,
  );
}

function readValue(text: string): DecryptedValue {
  switch (text) {
    case "as-is":
    case "json":
    case "text":
      return text;
    default:
      throw usage(
        "A flag --from has an unknown value after its colon",
        "Write what the application encrypted: `as-is` for whole records of Keyv, `json` or `text`, such as `--from fernet:json=old.key`.",
      );
  }
}

function usage(message: string, hint: string): CommandError {
  return new CommandError("USAGE", message, { hint });
}

/**
 * Lets re-encryption encrypt the records of a format that cannot detect a wrong key. Returns any other format unchanged.
 */
export function encryptingUnauthenticated(format: ForeignFormat): ForeignFormat {
  if (format.authenticated !== false) return format;
  const { name } = format;
  return {
    ...(name === undefined ? {} : { name }),
    authenticated: false,
    encryptUnauthenticated: true,
    read: (stored, address) => format.read(stored, address),
  };
}
