import { createHash } from "node:crypto";

/** The server and the server's own name of a tool or a prompt. */
export interface NamedPlace {
  readonly slug: string;
  readonly name: string;
}

/** The longest tool name that common clients and models accept, in characters. */
const longestName = 64;
const separator = "__";
const plainName = /^[A-Za-z0-9_.-]+$/;
const publicPattern = /^([a-z0-9]+(?:-[a-z0-9]+)*)__(.+)$/s;
/** The number of hexadecimal digits of the hash at the end of a shortened name. */
const hashLength = 10;
const shortened = new RegExp(`_[0-9a-f]{${hashLength}}$`);

const uriPattern = /^keyward\+([a-z0-9]+(?:-[a-z0-9]+)*)\+(.+)$/s;

/**
 * Returns the name of a tool or a prompt for callers: `server__name`. A name that is too long, or has other characters than
 * letters, digits, `_`, `.` and `-`, is cut and gets a hash of the whole name. The result depends on both texts alone.
 */
export function publicName({ slug, name }: NamedPlace): string {
  const whole = `${slug}${separator}${name}`;
  if (whole.length <= longestName && plainName.test(name)) return whole;
  const hash = createHash("sha256").update(name).digest("hex").slice(0, hashLength);
  const room = longestName - slug.length - separator.length - hashLength - 1;
  return `${slug}${separator}${name.replace(/[^A-Za-z0-9_.-]/g, "_").slice(0, room)}_${hash}`;
}

/**
 * Returns where a name of the endpoint leads, and `undefined` for a text that has no server. A slug has no `_`, so the name
 * of one server can never be the name of another one.
 */
export function placeOf(text: string): NamedPlace | undefined {
  const [, slug, name] = publicPattern.exec(text) ?? [];
  return slug === undefined || name === undefined || slug.length > 32 ? undefined : { slug, name };
}

/** Returns true if a name may have been shortened. Then the original name must be looked up in the server's list. */
export function mayBeShortened({ name }: NamedPlace): boolean {
  return shortened.test(name);
}

/** Returns the URI of a server's resource for callers of the endpoint. Keeps the variables of a template. */
export function publicUri(slug: string, uri: string): string {
  return `keyward+${slug}+${uri}`;
}

/** Returns the server, and the server's own URI, of a URI of the endpoint. */
export function resourceOf(text: string): { readonly slug: string; readonly uri: string } | undefined {
  const [, slug, uri] = uriPattern.exec(text) ?? [];
  return slug === undefined || uri === undefined || slug.length > 32 ? undefined : { slug, uri };
}
