import { textOf } from "../store-interface/keyv-value.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";

// The text with which encrypted values of well-known programs begin. It is a constant of the program, and no part of a
// value.
const beginnings: readonly (readonly [string, string])[] = [
  ["Fe26.2*", "iron"],
  ["U2FsdGVkX1", "base64 of Salted__ (CryptoJS or openssl enc)"],
  ["gAAAA", "Fernet token"],
  ["eyJpdiI6", "base64 of a JSON object that begins with iv (Laravel)"],
];

// The names of fields that a shape may show. Another name may be part of a value.
const knownFields = new Set(
  "iv nonce tag authTag auth mac hmac salt data content ciphertext cipherText ct encrypted encryptedData enc alg v version kid value expires".split(
    " ",
  ),
);

const maxParts = 8;

/**
 * Describes the form of a stored value, so that a person can tell which format it may have: the encoding, the parts and
 * their lengths, or the well-known fields of a JSON object. The description contains nothing of the value itself.
 */
export function shapeOf(stored: StoredValue): string {
  const beginning = typeof stored === "string" ? stored : Buffer.from(stored.subarray(0, 64)).toString("latin1");
  if (/^kw[0-9]+[.:]/.test(beginning)) return "envelope";
  const text = textOf(stored);
  if (text === undefined) {
    const isSalted = beginning.startsWith("Salted__");
    return isSalted ? "bytes that begin with Salted__ (openssl enc)" : `bytes, ${roughly(stored.length)}`;
  }
  const known = beginnings.find(([start]) => text.startsWith(start));
  if (known !== undefined) return known[1];
  if (/^eyJ[\w-]+(?:\.[\w-]*){4}$/.test(text)) return "compact JWE";
  if (/^[{["]/.test(text)) {
    try {
      return shapeOfJson(JSON.parse(text));
    } catch {
      return `text, ${roughly(text.length)}`;
    }
  }
  const [separator] = /[:.$|*~]/.exec(text) ?? [];
  const texts = separator === undefined ? [text] : text.split(separator, maxParts + 1);
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const parts = texts.map((part) => shapeOfPart(part, longest));
  const isEncoded =
    parts.length <= maxParts && parts.every((part) => part !== undefined) && !parts.every((part) => part === "");
  return isEncoded ? parts.join(separator) : `text, ${roughly(text.length)}`;
}

function shapeOfJson(parsed: unknown): string {
  if (typeof parsed !== "object" || parsed === null) return "JSON that is not an object";
  if (Array.isArray(parsed)) return "JSON list";
  const names = Object.keys(parsed);
  const shown = names.filter((name) => knownFields.has(name)).sort();
  const others = names.length - shown.length;
  if (others > 0) shown.push(others === 1 ? "1 other field" : `${others < 10 ? others : "many"} other fields`);
  return `JSON object { ${shown.join(", ")} }`;
}

/**
 * Describes one part of a stored text, such as "hex(16 bytes)". Returns `undefined` for a part that is not encoded
 * bytes.
 */
function shapeOfPart(part: string, longest: number): string | undefined {
  if (part === "") return "";
  if (part.length < 12 || !/^[A-Za-z0-9+/_-]+={0,2}$/.test(part)) return undefined;
  const isLongest = part.length === longest;
  if (/^[0-9a-f]+$/i.test(part) && part.length % 2 === 0) return `hex(${isLongest ? "bytes" : bytes(part.length / 2)})`;
  const base64 = /[-_]/.test(part) ? "base64url" : "base64";
  return `${base64}(${isLongest ? "bytes" : bytes(Math.floor((part.replace(/=+$/, "").length * 3) / 4))})`;
}

/**
 * Describes the length of a part. Shows the usual lengths of nonces, tags and salts, but no other length, so that
 * records of one format have the same description.
 */
function bytes(count: number): string {
  return [8, 12, 16, 24, 32, 64].includes(count) ? `${count} bytes` : "bytes";
}

function roughly(length: number): string {
  return `up to ${2 ** Math.ceil(Math.log2(Math.max(length, 1)))} long`;
}
