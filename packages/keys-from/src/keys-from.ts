import {
  fileLocation,
  type KeyProvider,
  type KeyringLocation,
  type OptionNames,
  type ReservedSpace,
  requireOptions,
  storeLocation,
} from "@keyward/core";
import { invalidSource, KeySourceAddress } from "./key-source-address.ts";
import { notLoaded } from "./provider-packages.ts";
import { vaultConnectionFrom } from "./vault-settings.ts";

/** What the text alone cannot say. */
export interface KeysFromOptions {
  /** The store in whose reserved space a wrapped keyring lies: for `place=store`. */
  readonly store?: ReservedSpace;
  /** Where variables are read, anew at each load; default `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

const optionNames: OptionNames<KeysFromOptions> = { store: true, env: true };

type Environment = Readonly<Record<string, string | undefined>>;
type Opener = (address: KeySourceAddress, options: KeysFromOptions) => Promise<KeyProvider>;

/** By its scheme, what opens a source. */
const openers: ReadonlyMap<string, Opener> = new Map<string, Opener>([
  ["env", openVariable],
  ["file", openFile],
  ["aws-sm", openAwsSecret],
  ["aws-kms", openAwsKms],
  ["vault", openVault],
  ["vault-transit", openVaultTransit],
]);

/**
 * The key provider that a text names, so that the same application takes its keys from another place in another
 * environment. Each provider is a package of its own, which is loaded when it is asked for.
 *
 * - `env:APP_KEY`, `file:/run/secrets/keyring`: `@keyward/keys-env`
 * - `aws-sm://region/secret`, `aws-kms://region/key?place=…`: `@keyward/keys-aws`
 * - `vault://mount/path`, `vault-transit://mount/key?place=…`: `@keyward/keys-vault`
 *
 * `place` is where a wrapped keyring lies, `store` or `file:/path`. All but `env:` and `file:` take the parameters
 * `refreshMs`, `maxAgeMs` and `timeoutMs`. Nothing secret belongs in the text: what a login needs is read from variables.
 *
 * @param source Where keys come from; usually the value of one variable. What is `undefined` or empty is refused.
 * @throws KeywardError `VALUE_INVALID` for a text that names no source, or says something that its source does not know, and
 * for an unknown option;
 * `PROVIDER_UNAVAILABLE` for a package that is not installed; what the provider itself refuses.
 */
export async function keysFrom(source: string | undefined, options: KeysFromOptions = {}): Promise<KeyProvider> {
  requireOptions("keysFrom", options, optionNames);
  const address = KeySourceAddress.parse(source, [...openers.keys()]);
  const open = openers.get(address.scheme);
  if (open === undefined) throw invalidSource(`has the scheme ${address.scheme}, which nobody opens`);
  const provider = await open(address, options);
  address.requireNothingLeft();
  return provider;
}

async function openVariable(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const { envKeys } = await import("@keyward/keys-env").catch(notLoaded("@keyward/keys-env"));
  return envKeys(address.rest, environmentOf(options));
}

async function openFile(address: KeySourceAddress): Promise<KeyProvider> {
  const { fileKeys } = await import("@keyward/keys-env").catch(notLoaded("@keyward/keys-env"));
  return fileKeys(address.path("a file such as file:/run/secrets/keyring"));
}

async function openAwsSecret(address: KeySourceAddress): Promise<KeyProvider> {
  const [region, secretId] = address.hostAndPath("aws-sm://eu-central-1/production/keyring");
  const settings = { ...freshnessOf(address), ...address.texts("endpoint", "name") };
  const { awsKeys } = await import("@keyward/keys-aws").catch(notLoaded("@keyward/keys-aws"));
  return awsKeys({ secretId, ...(region === "" ? {} : { region }), ...settings });
}

async function openAwsKms(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [region, keyId] = address.hostAndPath("aws-kms://eu-central-1/alias/keyward?place=store");
  const formerKeyIds = address.text("formerKeyIds")?.split(",");
  const former = formerKeyIds === undefined ? {} : { formerKeyIds };
  const settings = { ...wrappedSettingsOf(address), ...address.texts("endpoint"), ...former };
  const place = placeOf(address, options);
  const { kmsKeys } = await import("@keyward/keys-aws").catch(notLoaded("@keyward/keys-aws"));
  return kmsKeys({ keyId, place, ...(region === "" ? {} : { region }), ...settings });
}

async function openVault(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [mount, path] = address.hostAndPath("vault://secret/app/keyring");
  const connection = vaultConnectionFrom(address, options.env ?? process.env);
  const settings = { ...freshnessOf(address), ...address.texts("field") };
  const { vaultKeys } = await import("@keyward/keys-vault").catch(notLoaded("@keyward/keys-vault"));
  return vaultKeys({ path, ...(mount === "" ? {} : { mount }), ...connection, ...settings, ...environmentOf(options) });
}

async function openVaultTransit(address: KeySourceAddress, options: KeysFromOptions): Promise<KeyProvider> {
  const [mount, key] = address.hostAndPath("vault-transit://transit/keyward?place=store");
  const connection = vaultConnectionFrom(address, options.env ?? process.env);
  const settings = { ...wrappedSettingsOf(address), ...address.texts("derivedContext") };
  const place = placeOf(address, options);
  const { transitKeys } = await import("@keyward/keys-vault").catch(notLoaded("@keyward/keys-vault"));
  const at = mount === "" ? {} : { mount };
  return transitKeys({ key, place, ...at, ...connection, ...settings, ...environmentOf(options) });
}

function environmentOf({ env }: KeysFromOptions): { readonly env?: Environment } {
  return env === undefined ? {} : { env };
}

function freshnessOf(address: KeySourceAddress) {
  return address.numbers("refreshMs", "maxAgeMs", "timeoutMs");
}

function wrappedSettingsOf(address: KeySourceAddress) {
  return { ...freshnessOf(address), ...address.numbers("minGeneration"), ...address.texts("name") };
}

function placeOf(address: KeySourceAddress, { store }: KeysFromOptions): KeyringLocation {
  const place = address.text("place");
  if (place?.startsWith("file:") === true && place.length > "file:".length) {
    return fileLocation(KeySourceAddress.parse(place, ["file"]).path("a file such as place=file:/var/lib/app/keyring"));
  }
  if (place !== "store") {
    throw invalidSource("does not say where the wrapped keyring lies", "Add place=store, or place=file:/path.");
  }
  if (store !== undefined) return storeLocation(store);
  throw invalidSource("says place=store, and no store was given", "Call keysFrom(source, { store }).");
}
