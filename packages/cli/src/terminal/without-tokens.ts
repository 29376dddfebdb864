/** Returns a text of an error or a warning without whatever looks like a token of the secrets service. */
export function withoutTokens(text: string): string {
  return text.replace(/kwt_[A-Za-z0-9_]+/gi, "kwt_…");
}
