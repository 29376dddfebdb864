/** What most likely happened to a text that should be a key: what is to be done about it, without a word of the text. */
interface Slip {
  readonly isLikely: (text: string) => boolean;
  readonly advice: string;
}

export const byteOrderMark = "\uFEFF";

// Node writes these in lines of 64 or 76 characters, openssl in lines of 64.
const keyInLines = /^[A-Za-z0-9+/_\-\s]{20,}={0,2}\s*$/;
// Zero-width and no-break spaces, and others that no editor shows.
const invisible = /[\u00A0\u00AD\u200B-\u200F\u2028-\u202F\u2060\u3000]/;
const control = /\p{Cc}/u;

// The first that fits is told.
const slips: readonly Slip[] = [
  {
    isLikely: (text) => text.startsWith(byteOrderMark),
    advice: "The value begins with a byte order mark: save the file as UTF-8 without one.",
  },
  {
    isLikely: (text) => text.includes("\0"),
    advice: "The value has zero bytes in it, as UTF-16 has: save the file as UTF-8.",
  },
  {
    isLikely: (text) => text.startsWith("-----BEGIN"),
    advice: "The value is in PEM, which holds a certificate or a key of another kind: name another file or variable.",
  },
  {
    isLikely: (text) => text.startsWith("export "),
    advice: "The value is a whole line of a shell script: give what stands behind the equals sign.",
  },
  {
    isLikely: (text) => /^["'`\u201C\u201D\u2018\u2019]|["'`\u201C\u201D\u2018\u2019]$/.test(text),
    advice: "The value has a quote at its beginning or end: leave quotes out.",
  },
  {
    isLikely: (text) => /^base64:/i.test(text),
    advice: 'The value begins with "base64:": leave that out, and give what stands behind it.',
  },
  {
    isLikely: (text) => /^hex:/i.test(text),
    advice: 'Write "hex:" in small letters.',
  },
  {
    isLikely: (text) => /^(?:0x)?[0-9a-f]{64}$/i.test(text),
    advice: 'If these are hex digits, put "hex:" in front of them, and leave "0x" out.',
  },
  {
    isLikely: (text) => /\s#/.test(text),
    advice: "The value has a comment behind it: leave that out.",
  },
  {
    isLikely: (text) => text.split(/[\s,]+/).filter(looksLikeKey).length > 1,
    advice:
      "The value has several keys in it. Commas separate them, and only where further keys belong that open records.",
  },
  {
    isLikely: (text) => /\\[nr]/.test(text),
    advice: "The value has a backslash and a letter in it that stand for a line break: leave both out.",
  },
  {
    isLikely: (text) => invisible.test(text),
    advice:
      "The value has characters in it that cannot be seen, as copies from web pages have: type it, or copy it from elsewhere.",
  },
  {
    isLikely: (text) => /\s/.test(text) && keyInLines.test(text) && text.replace(/\s/g, "").length <= 64,
    advice: "The value is broken by white space: write it without any. A space may have been a plus sign.",
  },
  {
    isLikely: isEncodedTwice,
    advice: "The value is a key that was encoded as base64 twice: decode it once.",
  },
  {
    isLikely: (text) => text.length === 32,
    advice: "The value has 32 characters, which are not 32 bytes of a key as base64.",
  },
  {
    isLikely: (text) => /[^A-Za-z0-9+/=_-]/.test(text) && !control.test(text),
    advice: 'A passphrase has "passphrase:" in front. That makes another key, which opens no record of an earlier one.',
  },
];

/** What to do about a text that is no key, as sentences with a space behind each; "" where nothing is known. */
export function adviceOn(text: string): string {
  const slip = slips.find(({ isLikely }) => isLikely(text));
  return slip === undefined ? "" : `${slip.advice} `;
}

function looksLikeKey(text: string): boolean {
  return /(?:^|[:=])[A-Za-z0-9+/_-]{43}=?$/.test(text);
}

function isEncodedTwice(text: string): boolean {
  // 44 characters, with a line break or without, as base64.
  if (text.length > 64 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return false;
  const bytes = Buffer.from(text, "base64");
  const isKey = /^[A-Za-z0-9+/_-]{43}=?\s*$/.test(bytes.toString("latin1"));
  bytes.fill(0);
  return isKey;
}
