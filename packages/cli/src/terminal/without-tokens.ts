/** The least length of a text that has a token, or most of one. */
const tokenLength = 41;
const wholeToken = /kwt_[a-z0-9]{7,12}_[a-z0-9]{12}_[a-z0-9]{16}/i;
/** The ids and the random part of a token, without what is before them, and with other signs between them. */
const bareToken = /(?:service|[a-z0-9]{12})[_-][a-z0-9]{12}[_-][a-z0-9]{43}/i;

/** Replaces everything in a text that looks like a token of the secrets service by `kwt_…`. */
export function withoutTokens(text: string): string {
  return text.replace(/kwt_[A-Za-z0-9_]+/gi, "kwt_…").replace(/\S{41,}/g, (word) => (hasToken(word) ? "kwt_…" : word));
}

/** Returns whether a text contains a token. `@keyward/secrets/fields` has the same function, but takes longer to load. */
export function hasToken(text: string): boolean {
  if (text.length < tokenLength) return false;
  const plain = text
    .normalize("NFKC")
    .replaceAll(/%([0-7][0-9a-f])/gi, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)))
    .replaceAll(/\s+/g, "");
  return wholeToken.test(plain) || bareToken.test(plain);
}
