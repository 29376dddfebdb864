export { type EnvKeysOptions, envKeys } from "./env-keys.ts";
export { type FileKeys, type FileKeysOptions, fileKeys } from "./file-keys.ts";
export type { KeysWarningCode, MissingKeysOptions } from "./missing-keys.ts";
export type { MountOptions } from "./mount.ts";
export type { PassphraseOptions } from "./notation.ts";
