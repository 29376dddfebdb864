import { createHmac, type KeyObject, timingSafeEqual } from "node:crypto";
import { McpRefusedError } from "./mcp-refused-error.ts";

/** The workspace, the server and the owner to which a session belongs. */
export interface SessionPlace {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The id of the server. */
  readonly server: string;
  /** The owner of the caller's token. */
  readonly owner: string;
}

/** The longest id of a session that a server may give. */
const maxLength = 1_024;
const visibleAscii = new RegExp(`^[\\x21-\\x7e]{1,${maxLength}}$`);
/** The length of an HMAC-SHA-256 in base64url. */
const macLength = 43;
const sealed = new RegExp(`^[A-Za-z0-9_-]{${macLength}}\\.[\\x21-\\x7e]{1,${maxLength}}$`);

/**
 * Returns the session id that a caller gets for a session of a server: a MAC, a dot, and the id of the server. Only the
 * same owner can use the id, at the same server.
 *
 * @throws McpRefusedError `SESSION_ID_INVALID` if the id is longer than 1,024 characters, or has others than visible ASCII.
 */
export function sealSessionId(key: KeyObject | Uint8Array, place: SessionPlace, id: string): string {
  if (!visibleAscii.test(id)) {
    throw new McpRefusedError(
      "SESSION_ID_INVALID",
      `The server gave its session an id that is not 1 to ${maxLength} characters of visible ASCII`,
    );
  }
  return `${macOf(key, place, id)}.${id}`;
}

/** Returns the server's id of a session, and `undefined` for a text that `sealSessionId` did not return for the place. */
export function openSessionId(key: KeyObject | Uint8Array, place: SessionPlace, text: string): string | undefined {
  if (!sealed.test(text)) return undefined;
  const id = text.slice(macLength + 1);
  const given = Buffer.from(text.slice(0, macLength), "latin1");
  return timingSafeEqual(given, Buffer.from(macOf(key, place, id), "latin1")) ? id : undefined;
}

function macOf(key: KeyObject | Uint8Array, { workspace, server, owner }: SessionPlace, id: string): string {
  const fields = ["keyward mcp session", workspace, server, owner, id].flatMap((field) => {
    const bytes = Buffer.from(field);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    // Each field begins with its length, so that characters cannot be moved from one field to the next one.
    return [length, bytes];
  });
  return createHmac("sha256", key).update(Buffer.concat(fields)).digest("base64url");
}
