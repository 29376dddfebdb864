/** What errors call a resource of AWS, at the beginning of a sentence: by its id, unless that may be a key. */
export function subjectOf(kind: "secret" | "KMS key", id: string): string {
  return looksLikeKey(id) ? `The ${kind} given` : `The ${kind} ${JSON.stringify(id)}`;
}

/** Whether an id may be key material in the wrong place: the ids of AWS have the same characters as base64. */
export function looksLikeKey(id: string): boolean {
  if (!/^[\w/+=.@:-]{1,2048}$/.test(id)) return true;
  return /^(?:[A-Za-z0-9+/_-]{43}=?|(?:hex:)?[0-9A-Fa-f]{64}|passphrase:.*)$/.test(id);
}
