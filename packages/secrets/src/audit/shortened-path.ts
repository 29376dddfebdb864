/** A segment that the audit records as it is: short, and without a digit, so that it cannot be an id or a token. */
const plainSegment = /^[A-Za-z._-]{0,24}$/;
const mostSegments = 32;

/**
 * Returns the path of a call as the audit records it. Each segment that may be an id, a name or a token becomes `*`: a
 * segment with a digit, with more than 24 characters, or with other characters than letters, `.`, `_` and `-`. All
 * segments after the first 32 become one `*`. A query is dropped. `/repos/keyward/issues/17?token=abc` becomes
 * `/repos/keyward/issues/*`.
 *
 * @param path the path of the request's URL, as the caller sent it.
 */
export function shortenedPath(path: string): string {
  const end = path.search(/[?#]/);
  const segments = (end === -1 ? path : path.slice(0, end)).split("/", mostSegments + 2);
  const shown = segments.map((segment, index) => (index <= mostSegments && plainSegment.test(segment) ? segment : "*"));
  return shown.join("/");
}
