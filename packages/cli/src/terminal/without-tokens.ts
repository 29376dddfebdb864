/** Replaces everything in a text that looks like a token of the secrets service by `kwt_…`. */
export function withoutTokens(text: string): string {
  return text.replace(/kwt_[A-Za-z0-9_]+/gi, "kwt_…");
}

/** Returns whether a text contains a token. `@keyward/secrets/fields` has the same function, but takes longer to load. */
export function hasToken(text: string): boolean {
  return /kwt_[a-z0-9]{7,12}_[a-z0-9]{12}_[a-z0-9]{16}/i.test(text);
}
