import { resolve } from "node:path";
import {
  fileLocation,
  type KeyProvider,
  type KeyringLocation,
  type OptionNames,
  packageNotLoaded,
  type ReservedSpace,
  requireOptions,
  storeLocation,
} from "@keyward/core";
import { invalidSource, KeySourceAddress } from "./key-source-address.ts";
import { vaultConnectionFrom } from "./vault-settings.ts";

/** Options of {@link keysFrom}, for settings that cannot be written into the source of keys. */
export interface KeysFromOptions {
  /**
   * Store that holds the wrapped (encrypted) keyring in its reserved space, where Keyward keeps its own records.
   * Required for a source with `place=store`.
   */
  readonly store?: ReservedSpace;
  /**
   * Environment variables with the keys of an `env:` source, or with the `VAULT_…` settings of a Vault source. An
   * `env:` source reads them at each load. The AWS SDK always reads `process.env`. Default: `process.env`.
   */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The folder that a relative path in the source starts from. Default: the working directory of the process. */
  readonly folder?: string;
}

const optionNames: OptionNames<KeysFromOptions> = { store: true, env: true, folder: true };

type Environment = Readonly<Record<string, string | undefined>>;
type Opener = (address: KeySourceAddress, options: KeysFromOptions) => Promise<KeyProvider>;

/** The functions that make the key provider for a source, by the scheme of the source. */
const openers: ReadonlyMap<string, Opener> = new Map<string, Opener>([
  ["env", openVariable],
  ["file", openFile],
  ["aws-sm", openAwsSecret],
  ["aws-kms", openAwsKms],
  ["vault", openVault],
  ["vault-transit", openVaultTransit],
]);

/**
 * Returns the key provider for a source of encryption keys. The source is a text, such as `env:APP_KEY`. So an
 * application can use different sources in development, CI and production, and only this text differs. Each source
 * needs one package, which you install, and which `keysFrom` loads:
 *
 * - `env:APP_KEY`, `file:/run/secrets/keyring`: `@keyward/keys-env`
 * - `aws-sm://region/secret`, `aws-kms://region/key?place=…`: `@keyward/keys-aws`
 * - `vault://mount/path`, `vault-transit://mount/key?place=…`: `@keyward/keys-vault`
 *
 * The parameter `place` names the location of the wrapped (encrypted) keyring: `place=file:/path` for a file, or
 * `place=store` for the store in the option `store`. All sources except `env:` and `file:` accept the parameters
 * `refreshMs`, `maxAgeMs` and `timeoutMs`. Do not write credentials into the source. The credentials for Vault are read
 * from environment variables, and the AWS SDK finds the credentials for AWS.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { keysFrom } from "@keyward/keys-from";
 *
 * const keys = await keysFrom(process.env["APP_KEYS"] ?? "env:APP_ENCRYPTION_KEY");
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @param source The source of keys, usually the value of an environment variable. If the source is `undefined` or
 * empty, `keysFrom` rejects.
 * @throws KeywardError `VALUE_INVALID` for an invalid source, an unknown parameter and an unknown option.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the package of the provider is not installed or cannot be loaded.
 * @throws KeywardError with the code of the provider, if the provider refuses a value in the source.
 */
export async function keysFrom(source: string | undefined, options: KeysFromOptions = {}): Promise<KeyProvider> {
  requireOptions("keysFrom", options, optionNames);
  const address = KeySourceAddress.parse(source, [...openers.keys()]);
  const open = openers.get(address.scheme);
  if (open === undefined) throw invalidSource(`has the unknown scheme ${address.scheme}`);
  const provider = await open(address, options);
  address.parameters.requireNothingLeft(address.scheme);
  return provider;
}

async function openVariable(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const { envKeys } = await import("@keyward/keys-env").catch(notLoaded("@keyward/keys-env"));
  return envKeys(address.rest, environmentOf(options));
}

async function openFile(address: KeySourceAddress, { folder = "" }: KeysFromOptions): Promise<KeyProvider> {
  const { fileKeys } = await import("@keyward/keys-env").catch(notLoaded("@keyward/keys-env"));
  return fileKeys(resolve(folder, address.path("file:/run/secrets/keyring")));
}

async function openAwsSecret(address: KeySourceAddress): Promise<KeyProvider> {
  const [region, secretId] = address.hostAndPath("aws-sm://eu-central-1/production/keyring");
  const settings = { ...freshnessOf(address), ...address.parameters.texts("endpoint", "name", "field") };
  const { awsKeys } = await import("@keyward/keys-aws").catch(notLoaded("@keyward/keys-aws"));
  return awsKeys({ secretId, ...(region === "" ? {} : { region }), ...settings });
}

async function openAwsKms(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [region, keyId] = address.hostAndPath("aws-kms://eu-central-1/alias/keyward?place=store");
  const formerKeyIds = address.parameters.text("formerKeyIds")?.split(",");
  const former = formerKeyIds === undefined ? {} : { formerKeyIds };
  const settings = { ...wrappedSettingsOf(address), ...address.parameters.texts("endpoint"), ...former };
  const place = locationOf(address, options);
  const { kmsKeys } = await import("@keyward/keys-aws").catch(notLoaded("@keyward/keys-aws"));
  return kmsKeys({ keyId, place, ...(region === "" ? {} : { region }), ...settings });
}

async function openVault(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [mount, path] = address.hostAndPath("vault://secret/app/keyring");
  const connection = vaultConnectionFrom(address, options.env ?? process.env);
  const settings = { ...freshnessOf(address), ...address.parameters.texts("field") };
  const { vaultKeys } = await import("@keyward/keys-vault").catch(notLoaded("@keyward/keys-vault"));
  return vaultKeys({ path, ...(mount === "" ? {} : { mount }), ...connection, ...settings, ...environmentOf(options) });
}

async function openVaultTransit(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [mount, key] = address.hostAndPath("vault-transit://transit/keyward?place=store");
  const connection = vaultConnectionFrom(address, options.env ?? process.env);
  const settings = { ...wrappedSettingsOf(address), ...address.parameters.texts("derivedContext") };
  const place = locationOf(address, options);
  const { transitKeys } = await import("@keyward/keys-vault").catch(notLoaded("@keyward/keys-vault"));
  const at = mount === "" ? {} : { mount };
  return transitKeys({ key, place, ...at, ...connection, ...settings, ...environmentOf(options) });
}

function environmentOf({ env }: KeysFromOptions): { readonly env?: Environment } {
  return env === undefined ? {} : { env };
}

function freshnessOf(address: KeySourceAddress) {
  return address.parameters.numbers("refreshMs", "maxAgeMs", "timeoutMs");
}

function wrappedSettingsOf(address: KeySourceAddress) {
  return {
    ...freshnessOf(address),
    ...address.parameters.numbers("minGeneration"),
    ...address.parameters.texts("name"),
  };
}

function locationOf(address: KeySourceAddress, { store, folder = "" }: KeysFromOptions): KeyringLocation {
  const place = address.parameters.text("place");
  if (place?.startsWith("file:") === true && place.length > "file:".length) {
    const path = KeySourceAddress.parse(place, ["file"]).path("place=file:/var/lib/app/keyring");
    return fileLocation(resolve(folder, path));
  }
  if (place !== "store") {
    throw invalidSource(
      'has no valid parameter "place", which is the location of the wrapped keyring',
      "If the keyring is in a store, add `place=store`. If it is in a file, add `place=file:/path`.",
    );
  }
  if (store !== undefined) return storeLocation(store);
  throw invalidSource(
    "has the parameter place=store, but no store was passed to keysFrom",
    "Pass the store that holds the wrapped keyring: `keysFrom(source, { store })`.",
  );
}

function notLoaded(name: string): (cause: unknown) => never {
  return packageNotLoaded(name, "This source of keys", "PROVIDER_UNAVAILABLE");
}
