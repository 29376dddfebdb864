export {
  type ForeignFormat,
  insideKeyvValue,
  type PlaintextOptions,
  plaintext,
  type UnauthenticatedFormat,
} from "./envelope/foreign-format.ts";
export {
  type AesCbcFields,
  type AesCbcLayout,
  type AesCbcOptions,
  aesCbc,
  type CbcHmac,
} from "./envelope/formats/aes-cbc.ts";
export { type AesGcmFields, type AesGcmLayout, type AesGcmOptions, aesGcm } from "./envelope/formats/aes-gcm.ts";
export type { DecryptedValue } from "./envelope/formats/decrypted-value.ts";
export type { AeadCipher } from "./envelope/formats/decryption.ts";
export { type FernetOptions, fernet } from "./envelope/formats/fernet.ts";
export { type IronOptions, type IronPassword, iron } from "./envelope/formats/iron.ts";
export { type CompactJweOptions, compactJwe } from "./envelope/formats/jwe.ts";
export { type KeyvEncryptNodeOptions, keyvEncryptNode } from "./envelope/formats/keyv-encrypt-node.ts";
export { type LaravelOptions, laravel } from "./envelope/formats/laravel.ts";
export type { OrderOf, PartEncoding } from "./envelope/formats/layout.ts";
export type { KeyFrom, OldKey, OldKeys, Pbkdf2Key, ScryptKey } from "./envelope/formats/old-keys.ts";
export { type CryptoJsOptions, cryptoJs, type OpensslOptions, openssl } from "./envelope/formats/openssl.ts";
export { type SecretboxOptions, secretbox } from "./envelope/formats/secretbox.ts";
export type { BrokenEnvelope, ForeignRecord, InspectedEnvelope, RecordInspection } from "./envelope/inspection.ts";
export { reseed } from "./envelope/nonces.ts";
export { KeywardError, type KeywardErrorCode, type KeywardErrorDetails } from "./errors/errors.ts";
export { nodeTooOld, unsupportedNodeVersion } from "./errors/node-version.ts";
export { packageNotLoaded } from "./errors/optional-package.ts";
export { type Bounds, type OptionNames, requireAmount, requireOptions, type Unit } from "./errors/options.ts";
export { type Repetition, Repetitions } from "./errors/repetitions.ts";
export { type SourceNaming, SourceParameters } from "./errors/source-parameters.ts";
export { requireUrl, type UrlRules } from "./errors/url-argument.ts";
export { type FileLockOptions, whileLocked } from "./files/file-lock.ts";
export { isOwnedBy, replaceFile, systemCode } from "./files/private-file.ts";
export type { KeyInfo, KeyStatus, NewKey } from "./keyring/key.ts";
export { type KeyFreshness, type KeyProvider, requireFreshness, withFreshness } from "./keyring/key-provider.ts";
export { exportKeyring, Keyring, requireSavable, sameKeyring } from "./keyring/keyring.ts";
export type { ChangeInstruction, KeyringChange } from "./keyring/keyring-change.ts";
export { fileLocation, type KeyringLocation, storeLocation } from "./keyring/keyring-location.ts";
export { withGeneration, withKeysOf } from "./keyring/keyring-restoration.ts";
export {
  type KeyringWrapper,
  type WrapOptions,
  type WrappedKeys,
  type WrappedKeysOptions,
  wrappedKeys,
} from "./keyring/wrapped-keyring.ts";
export { reencrypt } from "./reencryption/bulk-reencryption.ts";
export { type Census, type CensusCounts, type CensusOptions, census, rangesOf } from "./reencryption/census.ts";
export { type Checkpoint, type FileCheckpointOptions, fileCheckpoint } from "./reencryption/checkpoint.ts";
export { type ForbidPlaintextOptions, forbidPlaintext } from "./reencryption/forbid-plaintext.ts";
export { type MigratedFormat, type MigrationReport, migrate, type UnreadRecords } from "./reencryption/migration.ts";
export type { NamedStores } from "./reencryption/named-stores.ts";
export type {
  ReencryptOptions,
  ReencryptProgress,
  ReencryptReport,
  UnreadableRecord,
} from "./reencryption/reencryption-options.ts";
export type { Retirement } from "./reencryption/retirement.ts";
export type { Instruct, Instruction } from "./rotation/change-at-source.ts";
export type { ReplicaWait, ReplicaWaitOptions, WaitingReplica } from "./rotation/replica-waits.ts";
export { type Replica, replicas } from "./rotation/replicas.ts";
export { type RetireKeyOptions, retireKey } from "./rotation/retire-key.ts";
export {
  planRotation,
  revocationCost,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "./rotation/rotation.ts";
export type {
  RevokeKeyOptions,
  RotateKeyOptions,
  RotationOptions,
  RotationProgress,
  RotationReport,
} from "./rotation/rotation-options.ts";
export type { PlannedStep, RevocationCost, RotationPlan } from "./rotation/rotation-plan.ts";
export type { RevocationOrder, RotationStatus, RotationStep } from "./rotation/rotation-record.ts";
export { type BinaryCompression, type CreateKeyvOptions, createKeyv, KeywardKeyv } from "./store/create-keyv.ts";
export { EncryptedStore, type EncryptedStoreOrKeyv, encryptedStoreOf } from "./store/encrypted-store.ts";
export type { EncryptedStoreOptions } from "./store/encrypted-store-options.ts";
export { inspectRecord } from "./store/inspect-record.ts";
export type { ReencryptEvent } from "./store/lazy-reencryption.ts";
export type { ReadyOptions } from "./store/readiness.ts";
export type { ReplicaOptions } from "./store/replica-registration.ts";
export { requiredGeneration } from "./store/required-generation.ts";
export type { WrappableStore } from "./store-interface/adapters.ts";
export { shareConnection } from "./store-interface/connection-users.ts";
export { ignoreLaterErrors, shareListener } from "./store-interface/event-listeners.ts";
export { readKeyvJson } from "./store-interface/keyv-value.ts";
export type { RecordAddress, RecordContent } from "./store-interface/record.ts";
export {
  invalidCursor,
  requireEntryExpires,
  requireExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireNewExpires,
  requireValue,
  sameStored,
} from "./store-interface/store-arguments.ts";
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
} from "./store-interface/store-capabilities.ts";
export { abortable } from "./waiting/abortable.ts";
export { RetryPause, type RetryPauseOptions } from "./waiting/retry-pause.ts";
export { singleFlight } from "./waiting/single-flight.ts";
