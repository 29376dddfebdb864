import { DecodedText } from "./decoded-text.ts";
import { EscapedBytes } from "./escaped-bytes.ts";

/** A value that answers are searched for. */
export interface NeedleSource {
  readonly value: string;
  /** Whether the value is `user:password`, as Basic authentication sends it. The password is searched for by itself too. */
  readonly basic: boolean;
}

/** One form of a value, to be searched for in the bytes of an answer and in the same bytes with their escapes decoded. */
export interface Form {
  readonly bytes: Buffer;
  /** Whether a byte of the form stands for less than a byte of the value, as in base64 and hex. */
  readonly isEncoded: boolean;
  /** Whether the value consists of digits alone. A hit then becomes zeros, so that the answer keeps its shape. */
  readonly isDigits: boolean;
  /** Whether the form ends with the beginning of an escape, so that what follows can change its decoding. */
  readonly endsOpen: boolean;
}

/** The length of the shortest form that is searched for, in bytes. A shorter form would also match text that is not a value. */
export const shortestForm = 8;

/** Values of fewer bytes can be guessed. What is promised about the time of a search does not hold for them. */
export const shortestStrongValue = 16;

/** Returns the forms of a value that must be searched for separately, because {@link DecodedText} does not decode them. */
export function formsOf(source: NeedleSource): Form[] {
  const forms = new Map<string, Form>();
  const add = (bytes: Buffer, isEncoded = false, isDigits = /^\d+$/.test(bytes.toString("latin1"))) => {
    if (bytes.length < shortestForm || forms.has(bytes.toString("latin1"))) return;
    const endsOpen = closed(bytes).length < decode(bytes).length;
    forms.set(bytes.toString("latin1"), { bytes, isEncoded, isDigits, endsOpen });
  };
  for (const text of textsOf(source)) {
    for (const bytes of bytesOf(text)) {
      add(bytes);
      add(decode(bytes));
      add(closed(bytes));
      const isStrong = bytes.length >= shortestStrongValue;
      for (const encoded of [...base64Forms(bytes), bytes.toString("hex"), bytes.toString("hex").toUpperCase()]) {
        add(Buffer.from(encoded), isStrong, false);
      }
    }
    for (const inner of innerLayers(text, source)) {
      for (const encoded of base64Forms(Buffer.from(inner)))
        add(Buffer.from(encoded), inner.length >= shortestStrongValue, false);
    }
    // Little is left of a short text that looks like escapes itself, or ends with the beginning of one. So its usual escaped forms
    // are searched for as they are.
    if (closed(Buffer.from(text)).length < shortestForm) {
      for (const escaped of escapedTexts(text)) add(Buffer.from(escaped));
    }
    // Forms of web pages write a space as "+".
    for (const bytes of bytesOf(text.replaceAll(" ", "+"))) {
      add(decode(bytes));
      add(closed(bytes));
    }
  }
  return [...forms.values()];
}

/** The value and the passwords within. */
function textsOf({ value, basic }: NeedleSource): Set<string> {
  const texts = [value];
  if (basic) texts.push(value.slice(value.indexOf(":") + 1));
  const password = /^[a-z][a-z\d+.-]*:\/\/[^/?#@]*?:([^/?#]*)@/i.exec(value)?.[1];
  if (password !== undefined) texts.push(password, percentDecoded(password));
  return new Set(texts.filter((text) => Buffer.byteLength(text) >= shortestForm));
}

function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A text as UTF-8, as Latin-1, and as UTF-8 that was read as Latin-1 and written as UTF-8 again. */
function bytesOf(text: string): Buffer[] {
  const utf8 = Buffer.from(text);
  if (utf8.length === text.length) return [utf8];
  const twice = Buffer.from(utf8.toString("latin1"));
  const isLatin1 = [...text].every((character) => (character.codePointAt(0) ?? 0) <= 0xff);
  return isLatin1 ? [utf8, twice, Buffer.from(text, "latin1")] : [utf8, twice];
}

/** The base64 and base64url characters that depend on the value alone, where 0, 1 or 2 bytes stand before the value. */
function base64Forms(bytes: Buffer): string[] {
  return [0, 1, 2].flatMap((before) => {
    const text = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64");
    const own = text.slice(Math.ceil((8 * before) / 6), Math.floor((8 * (before + bytes.length)) / 6));
    return [own, own.replaceAll("+", "-").replaceAll("/", "_")];
  });
}

/** What base64 is written around: the header of Basic authentication, JSON and URLs that have a text. Beside the text itself. */
function innerLayers(text: string, { value, basic }: NeedleSource): string[] {
  const layers = escapedTexts(text).filter((escaped) => escaped !== text);
  // Without the padding, which is not there in each header.
  if (basic && text === value) layers.push(Buffer.from(value).toString("base64").replace(/=+$/, ""));
  return layers;
}

/** A text as most programs escape it. */
function escapedTexts(text: string): string[] {
  return [JSON.stringify(text).slice(1, -1), encodeURIComponent(text.toWellFormed())];
}

/** What all escaped forms of a text decode to. */
function decode(bytes: Buffer): Buffer {
  const decoded = decodedText(bytes);
  return Buffer.from(decoded.bytes.subarray(0, decoded.length));
}

/** The same without an end that depends on what follows the text. */
function closed(bytes: Buffer): Buffer {
  const decoded = decodedText(bytes);
  return Buffer.from(decoded.bytes.subarray(0, decoded.settledLength));
}

function decodedText(bytes: Buffer): DecodedText {
  const decoded = new DecodedText();
  decoded.append(new EscapedBytes(bytes), 0, bytes.length, 0, bytes.length + 1);
  return decoded;
}
