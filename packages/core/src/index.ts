export {
  type AtomicStore,
  type BinaryStore,
  hasReservedSpace,
  isAtomic,
  isBinary,
  isNamespaced,
  isScannable,
  type NamespacedStore,
  type Replacement,
  type ReservedSpace,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
  type StoredBytes,
  type StoredValue,
} from "./capabilities.ts";
export { KeywardError, type KeywardErrorCode, type KeywardErrorDetails } from "./errors.ts";
export type { KeyProvider } from "./key-provider.ts";
export { exportKeyring, type KeyInfo, Keyring, type KeyStatus, type NewKey } from "./keyring.ts";
export { reseed } from "./nonces.ts";
