/**
 * The record of one value of a secret. It is written once. Only the reader for calls can parse it: see
 * `reader/value-reading.ts`.
 */
export interface ValueRecord {
  readonly v: 1;
  /** The name of the secret. */
  readonly name: string;
  /** The origin to which the value may be sent. */
  readonly origin: string;
  readonly value: string;
}
