import fc from "fast-check";

/**
 * Encodes a text as one layer of an answer does. `choose` picks one of a number of ways to write a character.
 */
export type Encoder = (text: string, choose: (count: number) => number) => string;

/** Encodes a text in layers. The outer layers leave letters and digits as they are, as all known encoders do. */
export const inLayers = (text: string, encoders: readonly Encoder[], choose: (count: number) => number): string =>
  encoders.reduce((inner, encode, layer) => {
    if (layer === 0) return encode(inner, choose);
    return inner.replace(/[^a-z0-9]+/gi, (part) => encode(part, choose));
  }, text);

const hex = (code: number, digits: number, choose: (count: number) => number) => {
  const text = code.toString(16).padStart(digits, "0");
  return choose(2) === 0 ? text : text.toUpperCase();
};

const unitsOf = (text: string) => text.split("");

const json: Encoder = (text, choose) =>
  unitsOf(text)
    .map((unit) => {
      const escaped = `\\u${hex(unit.charCodeAt(0), 4, choose)}`;
      if ('"\\/'.includes(unit)) return [`\\${unit}`, escaped][choose(2)] ?? "";
      return [unit, unit, escaped][choose(3)] ?? "";
    })
    .join("");

const percent: Encoder = (text, choose) =>
  [...text]
    .map((character) => {
      const escaped = [...Buffer.from(character)].map((byte) => `%${hex(byte, 2, choose)}`).join("");
      return /[%\P{ASCII}]/u.test(character) ? escaped : ([character, escaped][choose(2)] ?? "");
    })
    .join("");

const names: Record<string, string> = {
  "&": "amp",
  "<": "lt",
  ">": "gt",
  '"': "quot",
  "'": "apos",
  é: "eacute",
  "/": "sol",
};

const html: Encoder = (text, choose) =>
  [...text]
    .map((character) => {
      const code = character.codePointAt(0) ?? 0;
      const escaped = [`&#${code};`, `&#x${hex(code, 2, choose)};`, `&#X${hex(code, 4, choose)};`];
      const name = names[character];
      if (name !== undefined) escaped.push(`&${name};`);
      if (!"&<>".includes(character)) escaped.push(character, character);
      return escaped[choose(escaped.length)] ?? "";
    })
    .join("");

/** Encoders that choose for each character. */
export const layers = { json, percent, html };

/** What programs do with a whole value. */
export const wholes: Record<string, (text: string) => string> = {
  plain: (text) => text,
  "JSON.stringify": (text) => JSON.stringify(text).slice(1, -1),
  encodeURIComponent: (text) => encodeURIComponent(text),
  URLSearchParams: (text) => new URLSearchParams({ a: text }).toString().slice(2),
  hex: (text) => Buffer.from(text).toString("hex"),
  "upper-case hex": (text) => Buffer.from(text).toString("hex").toUpperCase(),
};

/** Divides bytes into chunks at the given places. */
export function chunksOf(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...cuts.map((cut) => cut % (bytes.length + 1)), 0, bytes.length].sort((a, b) => a - b);
  return places.slice(1).map((place, index) => bytes.subarray(places[index], place));
}

/** Characters as they occur in credentials. */
export const credential = (minLength: number, maxLength: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(..."abcXYZ019-_.~+/=:!$&%'\"\\<> {}é"), minLength, maxLength });
