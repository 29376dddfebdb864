export { abortable } from "./abortable.ts";
export {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  type DescribedStore,
  hasReservedSpace,
  isAtomic,
  isBinary,
  isBounded,
  isNamespaced,
  isRanged,
  isScannable,
  type NamespacedStore,
  type RangedStore,
  type Replacement,
  type ReservedSpace,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
  type StoredBytes,
  type StoredValue,
} from "./capabilities.ts";
export { type Census, type CensusCounts, type CensusOptions, census, rangesOf } from "./census.ts";
export { type Checkpoint, fileCheckpoint } from "./checkpoint.ts";
export { shareConnection } from "./connection-users.ts";
export { type BinaryCompression, type CreateKeyvOptions, createKeyv, KeywardKeyv } from "./create-keyv.ts";
export {
  EncryptedStore,
  type EncryptedStoreOptions,
  type EncryptedStoreOrKeyv,
  encryptedStoreOf,
} from "./encrypted-store.ts";
export type { Place, RecordContent } from "./envelope.ts";
export { KeywardError, type KeywardErrorCode, type KeywardErrorDetails } from "./errors.ts";
export { shareListener } from "./event-listeners.ts";
export { type AesGcmOptions, aesGcm, type ForeignFormat, type PlaintextOptions, plaintext } from "./foreign-format.ts";
export type { WrappableStore } from "./inner-store.ts";
export { type KeyFreshness, type KeyProvider, requireFreshness, withFreshness } from "./key-provider.ts";
export { exportKeyring, type KeyInfo, Keyring, type KeyStatus, type NewKey, requireSavable } from "./keyring.ts";
export { filePlace, type KeyringPlace, storePlace } from "./keyring-place.ts";
export { readKeyvJson } from "./keyv-value.ts";
export { nodeTooOld, unsupportedNodeVersion } from "./node-version.ts";
export { reseed } from "./nonces.ts";
export { type Bounds, type OptionNames, requireAmount, requireOptions, type Unit } from "./options.ts";
export { isOwnedBy, replaceFile, systemCode } from "./private-file.ts";
export type { ReencryptEvent } from "./read-reencryption.ts";
export {
  type ReencryptOptions,
  type ReencryptProgress,
  type ReencryptReport,
  reencrypt,
  type UnreadableRecord,
} from "./reencrypt.ts";
export type { ReplicaOptions } from "./registration.ts";
export { type Repetition, Repetitions } from "./repetitions.ts";
export type { ReplicaWait, ReplicaWaitOptions, WaitingReplica } from "./replica-waits.ts";
export { type Replica, replicas } from "./replicas.ts";
export {
  type NamedStores,
  type RetireKeyOptions,
  type Retirement,
  retireKey,
  type SealNamespaceOptions,
  sealNamespace,
} from "./retirement.ts";
export { RetryPause, type RetryPauseOptions } from "./retry-pause.ts";
export {
  planRotation,
  type RevokeKeyOptions,
  type RotateKeyOptions,
  type RotationOptions,
  type RotationProgress,
  type RotationReport,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "./rotation.ts";
export { type PlannedStep, type RevocationCost, type RotationPlan, revocationCost } from "./rotation-plan.ts";
export type { RevocationOrder, RotationStatus, RotationStep } from "./rotation-record.ts";
export { singleFlight } from "./single-flight.ts";
export {
  invalidCursor,
  requireEntryExpires,
  requireExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireValue,
  sameStored,
} from "./store-arguments.ts";
export { requireUrl, type UrlRules } from "./url-argument.ts";
export {
  type KeyringWrapper,
  type WrapOptions,
  type WrappedKeys,
  type WrappedKeysOptions,
  wrappedKeys,
} from "./wrapped-keyring.ts";
