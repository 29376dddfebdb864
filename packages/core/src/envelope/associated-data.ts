/**
 * The beginning of the associated data of all records with one header and namespace: LE64(3), then the length and the
 * bytes of the header, then the length and the bytes of the namespace.
 */
export interface AssociatedDataPrefix {
  readonly written: string;
  readonly namespace: string;
  readonly bytes: Buffer;
  /** The bytes of the header, which share the memory of `bytes`. */
  readonly header: Buffer;
}

/**
 * The most recent prefixes, the latest first. Re-encryption alternates between two of them: one for the old key, one
 * for the new key.
 */
let recentPrefixes: readonly AssociatedDataPrefix[] = [];
const maxRecentPrefixes = 4;

/** Returns the beginning of the associated data for a header and a namespace. A cache keeps the latest four results. */
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
 * Writes a length in 8 bytes. PASETO clears the top bit of each length; the lengths here are far too small to have one.
 */
function writeLE64(data: Buffer, length: number, at: number): number {
  data.writeUInt32LE(length, at);
  return data.writeUInt32LE(0, at + 4);
}
