export type { AwsClientOptions } from "./aws-client.ts";
export { type AwsKeys, type AwsKeysOptions, awsKeys } from "./aws-keys.ts";
export { type KmsKeysOptions, kmsKeys } from "./kms-keys.ts";
