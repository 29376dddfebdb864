/** Returns the name of an AWS resource for errors, as the first words of a sentence. Hides an id that may be a key. */
export function subjectOf(kind: "secret" | "KMS key", id: string): string {
  return looksLikeKey(id)
    ? `The ${kind} (id not shown, because it looks like a key)`
    : `The ${kind} ${JSON.stringify(id)}`;
}

/** Returns true if an id may be key material by mistake. The ids of AWS have the same characters as base64. */
export function looksLikeKey(id: string): boolean {
  if (!/^[\w/+=.@:-]{1,2048}$/.test(id)) return true;
  return /^(?:[A-Za-z0-9+/_-]{43}=?|(?:hex:)?[0-9A-Fa-f]{64}|passphrase:.*)$/.test(id);
}
