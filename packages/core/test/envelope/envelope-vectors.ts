import { readFileSync } from "node:fs";
import type { KeywardErrorCode } from "../../src/errors/errors.ts";
import type { KeyStatus } from "../../src/keyring/key.ts";
import { Keyring } from "../../src/keyring/keyring.ts";

/** A stored string or stored bytes in the format of the test vectors. */
export type WrittenValue = { readonly text: string } | { readonly hex: string };

interface AcceptVector {
  readonly name: string;
  readonly root: string;
  readonly scope: string | null;
  readonly kid: string;
  readonly namespace: string;
  readonly key: string;
  readonly nonce: string;
  readonly expires: number | null;
  readonly padTo: number | null;
  readonly value: WrittenValue;
  readonly sealed: WrittenValue;
  readonly absent?: true;
}

interface RejectVector {
  readonly name: string;
  readonly ring: readonly { readonly id: string; readonly root: string; readonly status: KeyStatus }[];
  readonly scope: string | null;
  readonly namespace: string;
  readonly key: string;
  readonly stored: WrittenValue;
  readonly code: KeywardErrorCode;
}

interface Vectors {
  readonly xaes256gcm: readonly {
    readonly key: string;
    readonly nonce: string;
    readonly plaintext: string;
    readonly associatedData: string;
    readonly sealed: string;
  }[];
  readonly xaes256gcmAccumulated: { readonly rounds: number; readonly digest: string };
  readonly defaultKeyId: readonly { readonly root: string; readonly id: string }[];
  readonly accept: readonly AcceptVector[];
  readonly reject: readonly RejectVector[];
}

export const vectors: Vectors = JSON.parse(
  readFileSync(new URL("../../../../test/vectors/envelope-v1.json", import.meta.url), "utf8"),
);

export const fromHex = (hex: string): Buffer => Buffer.from(hex, "hex");

export const readValue = (written: WrittenValue): string | Buffer =>
  "text" in written ? written.text : fromHex(written.hex);

/**
 * Returns a keyring with the keys of a vector. Its primary is another key, so that any key of the vector may be
 * disabled.
 */
export function ringOf(keys: RejectVector["ring"]): Keyring {
  const own = Keyring.generate("primary-of-the-test");
  return keys.reduce((ring, { id, root, status }) => ring.add({ id, material: fromHex(root), status }), own);
}
