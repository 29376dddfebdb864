import type { KMSClient } from "@aws-sdk/client-kms";
import {
  type KeyringLocation,
  KeywardError,
  type OptionNames,
  requireFreshness,
  requireOptions,
  type WrappedKeys,
  type WrappedKeysOptions,
  wrappedKeys,
} from "@keyward/core";
import { type AwsClientOptions, requireEndpoint } from "./aws-client.ts";
import { KmsWrapper } from "./kms-wrapper.ts";

/** Options of {@link kmsKeys}. */
export interface KmsKeysOptions extends AwsClientOptions, WrappedKeysOptions {
  /** Id, ARN or alias (`alias/…`) of a symmetric KMS key. */
  readonly keyId: string;
  /**
   * Location where the wrapped (encrypted) keyring is stored: `storeLocation(store)` or `fileLocation(path)` of
   * `@keyward/core`.
   */
  readonly place: KeyringLocation;
  /**
   * Name that the keyring must have. The encryption context in KMS contains this name, so KMS unwraps only a keyring
   * that was wrapped with this name. Default: `keyring`.
   */
  readonly name?: string;
  /**
   * Ids, ARNs or aliases of earlier KMS keys. A keyring that is still wrapped under one of these KMS keys can be
   * loaded, and `rewrap` wraps this keyring under `keyId`. Default: none.
   */
  readonly formerKeyIds?: readonly string[];
  /**
   * Client of the AWS SDK, which the provider uses and never destroys. If you pass a client, `region` and `endpoint`
   * are ignored. Default: a client that the provider makes from `region` and `endpoint`.
   */
  readonly client?: Pick<KMSClient, "send">;
}

const optionNames: OptionNames<KmsKeysOptions> = {
  keyId: true,
  place: true,
  name: true,
  minGeneration: true,
  formerKeyIds: true,
  client: true,
  region: true,
  endpoint: true,
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
};

/**
 * Returns a key provider for a keyring that is stored in a store or a file, wrapped by a KMS key. KMS is called when a
 * keyring is saved, and when a keyring that has changed is loaded, but never for a record. Needs the package
 * `@aws-sdk/client-kms`, which you install yourself.
 *
 * @example
 * import { createKeyv, storeLocation } from "@keyward/core";
 * import { kmsKeys } from "@keyward/keys-aws";
 * import { MemoryStore } from "@keyward/store-memory";
 *
 * const store = new MemoryStore();
 * const keys = kmsKeys({ keyId: "alias/keyward", place: storeLocation(store) });
 * const sessions = createKeyv({ store, keys, namespace: "sessions" });
 *
 * @throws KeywardError `VALUE_INVALID` if `keyId` is empty or not a string, if `minGeneration` is not an integer of at
 * least 1, if `endpoint` is not a URL, for an unknown option, and for a duration out of range.
 */
export function kmsKeys(options: KmsKeysOptions): WrappedKeys {
  const {
    keyId,
    place,
    name = "keyring",
    formerKeyIds = [],
    minGeneration,
  } = requireOptions("kmsKeys", options, optionNames);
  requireEndpoint(options);
  if ([keyId, ...formerKeyIds].some((id) => typeof id !== "string" || id === "")) {
    throw new KeywardError(
      "VALUE_INVALID",
      'The option "keyId" or an element of "formerKeyIds" is not the id, ARN or alias of a KMS key',
      {
        hint: 'Pass a non-empty string, such as `keyId: "alias/keyward"`. If the id comes from an environment variable, check that the environment variable is set.',
      },
    );
  }
  const freshness = requireFreshness(options);
  const wrapper = new KmsWrapper([keyId, ...formerKeyIds], name, { ...options, timeoutMs: freshness.timeoutMs });
  return wrappedKeys(wrapper, place, {
    ...freshness,
    name,
    ...(minGeneration === undefined ? {} : { minGeneration }),
  });
}
