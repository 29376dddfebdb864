/** Returns a text of an error or a warning without whatever looks like a token of the secrets service. */
export function withoutTokens(text: string): string {
  return text.replace(/kwt_[A-Za-z0-9_]+/gi, "kwt_…");
}

/** Returns whether a text has a token, like the function of `@keyward/secrets/fields`, which takes longer to load. */
export function hasToken(text: string): boolean {
  return /kwt_[a-z0-9]{7,12}_[a-z0-9]{12}_[a-z0-9]{16}/i.test(text);
}
