export { type Config, type ConfiguredStore, defineConfig } from "./configuration/config.ts";
export { type LoadConfigOptions, loadConfig } from "./configuration/config-file.ts";
export type {
  ConfigOptions,
  ConfigSettings,
  GatewaySettings,
  RotationSettings,
} from "./configuration/config-options.ts";
