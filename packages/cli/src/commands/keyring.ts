import { type KeyInfo, Keyring, KeywardError } from "@keyward/core";
import { storeName } from "../configuration/store-name.ts";
import type { Context } from "../context.ts";
import { shownSince } from "../terminal/durations.ts";
import { table } from "../terminal/output.ts";

/** Shows the keys of the keyring, without their material. */
export async function showKeyring(context: Context): Promise<void> {
  const provider = await context.keys();
  const ring = await provider.load({ signal: context.signal });
  const { name, generation, primary, keys, stores } = ring;
  const rows = keys.map((key) => [key.id, key.id === primary ? "primary" : key.status, ageOf(key)]);
  const text = [
    `Keyring "${name}", generation ${generation}${stores.length === 0 ? "" : `, stores ${stores.join(", ")}`}`,
    table([["key", "status", "age"], ...rows]),
  ].join("\n");
  context.output.result(text, { name, generation, primary, keys, stores });
}

/** The options of `keyward keyring create`. */
export interface CreateOptions {
  readonly id?: string;
  readonly stores?: string;
}

/** Saves the first keyring. */
export async function createKeyring(context: Context, { id, stores }: CreateOptions): Promise<void> {
  const provider = await context.keys();
  if (provider.create === undefined) {
    throw new KeywardError("PROVIDER_READ_ONLY", "This source of keys cannot save a keyring", {
      hint: "Use a file, a secret of AWS or Vault, or a wrapped keyring. For an environment variable, make a key with `keyward keygen`.",
    });
  }
  const names = stores?.split(",").map((name) => name.trim());
  const invalid = names?.find((name) => !storeName.test(name));
  if (invalid !== undefined) {
    throw new KeywardError("VALUE_INVALID", `"${invalid}" cannot be the name of a store`, {
      hint: "A name begins with a letter, and has letters, digits, - and _ after it.",
    });
  }
  const first = Keyring.generate(id ?? new Date().toISOString().slice(0, 10));
  const ring = names === undefined ? first : first.withStores(names);
  await provider.create(ring);
  context.output.result(`The keyring was saved. Its primary is key "${ring.primary}".`, { primary: ring.primary });
}

/**
 * Enables a disabled key, so that processes can read the records under it again.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY`, `KEY_UNKNOWN`, `KEYRING_CONFLICT`; the errors of the provider.
 */
export async function enableKey(context: Context, id: string): Promise<void> {
  const provider = await context.keys();
  const keyring = await provider.load({ signal: context.signal });
  const enabled = keyring.enable(id);
  if (keyring.keys.some((key) => key.id === id && key.status === "enabled")) {
    context.output.result(`Key "${id}" is enabled already.`, { id, saved: false });
    return;
  }
  if (provider.save === undefined) {
    throw new KeywardError("PROVIDER_READ_ONLY", "This source of keys cannot save a keyring", {
      hint: `Enable key "${id}" where its source is written, and let the processes load the keys again.`,
    });
  }
  await provider.requireWritable?.();
  await provider.save(enabled, keyring);
  context.output.result(`Key "${id}" is enabled.`, { id, saved: true });
}

function ageOf({ created }: KeyInfo): string {
  return created === undefined ? "unknown" : shownSince(Date.parse(created));
}
