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
  /** The id, ARN or alias (`alias/…`) of a symmetric KMS key. */
  readonly keyId: string;
  /** Where the wrapped keyring lies: `storeLocation(store)` or `fileLocation(path)` of `@keyward/core`. */
  readonly place: KeyringLocation;
  /** The name that the ring must have, which KMS is told as well. Default "keyring". */
  readonly name?: string;
  /** KMS keys that the ring may still be wrapped under, until `rewrap`. */
  readonly formerKeyIds?: readonly string[];
  /** A client of the SDK, in place of `region` and `endpoint`. It is never destroyed. */
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
 * Keys from a keyring that lies in a store or a file, wrapped by a KMS key: KMS is asked once, when the ring is loaded.
 * Needs the package `@aws-sdk/client-kms`, which is not installed with this one.
 *
 * @throws KeywardError `VALUE_INVALID` for a `keyId` that is empty, a `minGeneration` that is not a whole number from 1, an
 * `endpoint` that is no URL, an unknown option, and for settings of freshness out of range.
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
    throw new KeywardError("VALUE_INVALID", "keyId is not the id, ARN or alias of a KMS key", {
      hint: 'Give it as keyId: "alias/keyward". Is the variable that it comes from set?',
    });
  }
  const freshness = requireFreshness(options);
  const wrapper = new KmsWrapper([keyId, ...formerKeyIds], name, { ...options, timeoutMs: freshness.timeoutMs });
  return wrappedKeys(wrapper, place, {
    ...freshness,
    name,
    ...(minGeneration === undefined ? {} : { minGeneration }),
  });
}
