/**
 * Returns the words that name an AWS resource in errors. The words do not contain the id if the id may be an encryption
 * key that was passed by mistake.
 */
export function subjectOf(kind: "secret" | "KMS key", id: string): string {
  return looksLikeKey(id)
    ? `The ${kind} (id not shown, because it looks like a key)`
    : `The ${kind} ${JSON.stringify(id)}`;
}

/**
 * Returns true if a text that was passed as an id may be key material. Ids of AWS use the same characters as base64, so a
 * key is recognized by its length or its prefix.
 */
export function looksLikeKey(id: string): boolean {
  if (!/^[\w/+=.@:-]{1,2048}$/.test(id)) return true;
  return /^(?:[A-Za-z0-9+/_-]{43}=?|(?:hex:)?[0-9A-Fa-f]{64}|passphrase:.*)$/.test(id);
}
