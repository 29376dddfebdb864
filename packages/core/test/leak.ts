import { format, inspect } from "node:util";

const visible = (read: () => unknown): string => {
  try {
    return String(read());
  } catch (error) {
    return String(error);
  }
};

/** Returns everything that a log, an error page or another thread could show of a value. */
export function shown(value: unknown): string {
  const deep = { depth: Infinity, showHidden: true, maxStringLength: Infinity, maxArrayLength: Infinity } as const;
  const error = value instanceof Error ? [value.message, value.stack, shown(value.cause)] : [];
  return [
    ...error,
    visible(() => value),
    visible(() => inspect(value, deep)),
    visible(() => format("%o %O %j %s", value, value, value, value)),
    visible(() => JSON.stringify(value)),
    visible(() => JSON.stringify(Object.getOwnPropertyDescriptors(value))),
    visible(() => inspect(structuredClone(value), deep)),
  ].join("\n");
}

/**
 * Returns the first part of a secret that a text shows in any likely encoding; `undefined` if it shows none. The parts
 * are long enough that random bytes do not match a text by chance.
 */
export function leaked(text: string, secret: Uint8Array, characters = 8): string | undefined {
  const bytes = Buffer.from(secret);
  for (const [encoding, width] of [
    ["base64", characters],
    ["base64url", characters],
    ["hex", 8],
    ["latin1", 6],
  ] as const) {
    const written = bytes.toString(encoding);
    const lower = encoding === "hex" ? text.toLowerCase() : text;
    for (let at = 0; at + width <= written.length; at++) {
      const window = written.slice(at, at + width);
      if (lower.includes(window)) return window;
    }
  }
  const pairs = [...bytes].map((byte) => byte.toString(16).padStart(2, "0"));
  for (let at = 0; at + 4 <= bytes.length; at++) {
    const four = [...bytes.subarray(at, at + 4)];
    for (const window of [four.join(", "), four.join(","), pairs.slice(at, at + 4).join(" ")]) {
      if (text.includes(window)) return window;
    }
  }
  return undefined;
}
