// The headers that no secret's value may be sent in: the gateway or the connection sets them, or they would change the
// meaning of the request.
const refused: readonly string[] = [
  "host",
  "connection",
  "content-length",
  "transfer-encoding",
  "te",
  "trailer",
  "upgrade",
  "expect",
  "range",
  "accept-encoding",
  "cookie",
  "keep-alive",
  "proxy-*",
  "mcp-*",
];
// The headers that the gateway passes on in neither direction, whatever the settings of the server are.
const heldBack: readonly string[] = [
  ...refused,
  // Credentials, cookies, and questions for them.
  "authorization",
  "authentication-info",
  "cookie2",
  "set-cookie",
  "set-cookie2",
  "www-authenticate",
  // A part of a body, or the bytes of a body before the gateway has decoded it and replaced values.
  "if-range",
  "content-range",
  "content-encoding",
  "content-md5",
  "content-digest",
  "repr-digest",
  "digest",
  // Headers that replace the method, path or host that the gateway has checked.
  "x-http-method*",
  "x-method-override",
  "x-original-*",
  "x-rewrite-*",
  "x-host",
  // A program behind CGI would send its own requests through this proxy.
  "proxy",
  "http2-settings",
  // The address of a client, which servers believe a proxy.
  "forwarded",
  "via",
  "x-forwarded-*",
  "x-real-ip",
  "x-client-ip",
  "x-cluster-client-ip",
  "true-client-ip",
  "cf-connecting-ip",
  // What a browser says about its page.
  "origin",
  "referer",
  "sec-*",
  // What a browser would do in the origin of the gateway, or instead of asking the gateway.
  "access-control-*",
  "alt-svc",
  "clear-site-data",
  "content-security-policy*",
  "nel",
  "refresh",
  "report-to",
  "reporting-endpoints",
  "service-worker-allowed",
  "strict-transport-security",
  "x-content-type-options",
  // What a proxy in front of the gateway would obey.
  "x-accel-*",
  "x-sendfile",
];
/**
 * The headers that the gateway never relays from a server to a caller. A final `*` matches any further characters.
 * Contains `x-request-id`, which callers may send to a server.
 */
export const heldBackFromAnswers: readonly string[] = [...heldBack, "x-request-id"];

/**
 * Returns true if no secret's value may be sent in a header, because the gateway sets the header itself or must not
 * forward it.
 */
export function isRefusedHeader(name: string): boolean {
  return ruleFor(name.toLowerCase(), refused) !== undefined;
}

/**
 * Returns the rule, such as `sec-*`, by which the gateway must not pass on a header in a request or in an answer.
 * Returns `undefined` if no rule matches. Some servers read `X_Real_IP` as `X-Real-IP`, so the rules match both
 * spellings.
 */
export function holdingBack(direction: "request" | "answer", name: string): string | undefined {
  return ruleFor(plainName(name), direction === "request" ? heldBack : heldBackFromAnswers);
}

/** Returns whether a name seems to be a pattern for several headers, such as `X-*`. Settings and rules name single headers. */
export function isPattern(name: string): boolean {
  return name.includes("*");
}

/** Returns whether some servers treat two names as the same header, such as `X-Real-IP` and `X_Real_IP`. */
export function isSameHeader(one: string, other: string): boolean {
  return plainName(one) === plainName(other);
}

function ruleFor(name: string, rules: readonly string[]): string | undefined {
  return rules.find((rule) => (rule.endsWith("*") ? name.startsWith(rule.slice(0, -1)) : name === rule));
}

/** Servers with an interface like CGI replace each character that is not a letter or digit by an underscore. */
function plainName(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9]/g, "-");
}
