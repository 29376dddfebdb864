/**
 * The first part of a record's associated data, which is the same for all records with one header and one namespace.
 *
 * It consists of the number 3, the length and the bytes of the header, and the length and the bytes of the namespace.
 * The number and each length have 8 bytes. The key of the record follows this part.
 */
export interface AssociatedDataPrefix {
  readonly written: string;
  readonly namespace: string;
  readonly bytes: Buffer;
  /** The bytes of the header, which share the memory of `bytes`. */
  readonly header: Buffer;
}

/**
 * The prefixes that were used last, the latest first. Re-encryption alternates between two prefixes: one for the old
 * key, one for the new key.
 */
let recentPrefixes: readonly AssociatedDataPrefix[] = [];
const maxRecentPrefixes = 4;

/**
 * Returns the part of the associated data that depends only on the header and the namespace. A cache keeps the latest
 * four results.
 */
export function associatedDataPrefix(written: string, namespace: string): AssociatedDataPrefix {
  for (const recent of recentPrefixes) {
    if (recent.written === written && recent.namespace === namespace) return recent;
  }
  const namespaceBytes = Buffer.byteLength(namespace);
  const bytes = Buffer.alloc(24 + written.length + namespaceBytes);
  writeLE64(bytes, 3, 0);
  const headerAt = writeLE64(bytes, written.length, 8);
  const headerEnd = headerAt + bytes.write(written, headerAt, "latin1");
  bytes.write(namespace, writeLE64(bytes, namespaceBytes, headerEnd), "utf8");
  const prefix = { written, namespace, bytes, header: bytes.subarray(headerAt, headerEnd) };
  recentPrefixes = [prefix, ...recentPrefixes.slice(0, maxRecentPrefixes - 1)];
  return prefix;
}

/**
 * Returns the associated data of a record: PAE(header as written, namespace, key). PAE is LE64 of the number of pieces,
 * then for each piece LE64 of its length and its bytes. LE64 is a number in 8 bytes, least significant first.
 *
 * Source: PASETO, Pre-Authentication Encoding,
 * https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Common.md
 */
export function associatedData({ bytes }: AssociatedDataPrefix, key: string): Buffer {
  const keyBytes = Buffer.byteLength(key);
  const data = Buffer.allocUnsafe(bytes.length + 8 + keyBytes);
  data.set(bytes);
  data.write(key, writeLE64(data, keyBytes, bytes.length), "utf8");
  return data;
}

/**
 * Writes a length as 8 bytes, least significant first, and returns the offset after them. PASETO clears the top bit of
 * each length. Here, lengths are so small that this bit is always 0.
 */
function writeLE64(data: Buffer, length: number, at: number): number {
  data.writeUInt32LE(length, at);
  return data.writeUInt32LE(0, at + 4);
}
