export { type Config, type ConfiguredStore, defineConfig } from "./configuration/config.ts";
export { type LoadConfigOptions, loadConfig } from "./configuration/config-file.ts";
export type { ConfigOptions, ConfigSettings, RotationSettings } from "./configuration/config-options.ts";
