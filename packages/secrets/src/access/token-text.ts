import { hash, randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";
import { installation } from "../records/record-keys.ts";

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const secretBytes = 32;
// 62^43 is greater than 2^256.
const secretLength = 43;
// 62^6 is greater than 2^32.
const checksumLength = 6;
const pattern = new RegExp(
  `^kwt_(${installation}|[a-z0-9]{12})_([a-z0-9]{12})_[0-9A-Za-z]{${secretLength + checksumLength}}$`,
);
/** The length of the longest token. */
const maxLength = "kwt_".length + 2 * 13 + secretLength + checksumLength;

/** The ids that the text of a token contains. */
export interface TokenParts {
  /** The id of the workspace; `service` for the token of an operator. */
  readonly workspace: string;
  readonly id: string;
}

/** Makes the text of a new token: `kwt_`, the workspace, `_`, the id, `_`, 256 random bits and a checksum. */
export function newTokenText({ workspace, id }: TokenParts): string {
  const secret = inDigits(BigInt(`0x${randomBytes(secretBytes).toString("hex")}`), secretLength);
  const text = `kwt_${workspace}_${id}_${secret}`;
  return text + checksumOf(text);
}

/** Reads the text of a token. Returns `undefined` if the text is not a token, or if its checksum is wrong. */
export function readTokenText(text: string): TokenParts | undefined {
  if (text.length > maxLength) return undefined;
  const [, workspace, id] = pattern.exec(text) ?? [];
  if (workspace === undefined || id === undefined) return undefined;
  return checksumOf(text.slice(0, -checksumLength)) === text.slice(-checksumLength) ? { workspace, id } : undefined;
}

/**
 * Returns the SHA-256 of the text of a token. One hash is enough, because 256 random bits cannot be guessed. Only
 * passwords need a slow hash.
 */
export function hashOfToken(text: string): Buffer {
  return hash("sha256", text, "buffer");
}

function checksumOf(text: string): string {
  return inDigits(BigInt(crc32(text)), checksumLength);
}

function inDigits(value: bigint, length: number): string {
  let text = "";
  for (let left = value; text.length < length; left /= 62n) text = digits.charAt(Number(left % 62n)) + text;
  return text;
}
