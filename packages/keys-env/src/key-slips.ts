/** A common mistake in a value that should be a key, and how to correct it. The advice never repeats the value. */
interface Slip {
  readonly isLikely: (text: string) => boolean;
  readonly advice: string;
}

export const byteOrderMark = "\uFEFF";

// Node.js writes base64 in lines of 64 or 76 characters, openssl in lines of 64.
const keyInLines = /^[A-Za-z0-9+/_\-\s]{20,}={0,2}\s*$/;
// Zero-width and no-break spaces, and others that no editor shows.
const invisible = /[\u00A0\u00AD\u200B-\u200F\u2028-\u202F\u2060\u3000]/;
const control = /\p{Cc}/u;

// The first mistake that is likely decides the advice.
const slips: readonly Slip[] = [
  {
    isLikely: (text) => text.startsWith(byteOrderMark),
    advice: "The value begins with a byte order mark. Save the file as UTF-8 without a byte order mark.",
  },
  {
    isLikely: (text) => text.includes("\0"),
    advice: "The value contains zero bytes, which indicates UTF-16. Save the file as UTF-8.",
  },
  {
    isLikely: (text) => text.startsWith("-----BEGIN"),
    advice:
      "The value is in PEM format, which holds a certificate or another type of key. Read the key from another file or environment variable.",
  },
  {
    isLikely: (text) => text.startsWith("export "),
    advice: "The value is a whole line of a shell script. Use only the text after the equals sign.",
  },
  {
    isLikely: (text) => /^["'`\u201C\u201D\u2018\u2019]|["'`\u201C\u201D\u2018\u2019]$/.test(text),
    advice: "The value has a quote at its beginning or end. Remove the quotes.",
  },
  {
    isLikely: (text) => /^base64:/i.test(text),
    advice: 'The value begins with "base64:". Remove this prefix.',
  },
  {
    isLikely: (text) => /^hex:/i.test(text),
    advice: 'Write the prefix "hex:" in lower case.',
  },
  {
    isLikely: (text) => /^(?:0x)?[0-9a-f]{64}$/i.test(text),
    advice: 'If the value is in hex, add the prefix "hex:". If the value begins with "0x", remove the "0x".',
  },
  {
    isLikely: (text) => /\s#/.test(text),
    advice: "The value ends with a comment. Remove the comment.",
  },
  {
    isLikely: (text) => text.split(/[\s,]+/).filter(looksLikeKey).length > 1,
    advice:
      "The value holds several keys. Use only the primary key here. Additional keys, separated by commas, belong in the environment variable whose name ends in _OTHERS.",
  },
  {
    isLikely: (text) => /\\[nr]/.test(text),
    advice: "The value contains a line break that is written as a backslash and a letter. Remove both characters.",
  },
  {
    isLikely: (text) => invisible.test(text),
    advice:
      "The value contains invisible characters, which copies from web pages often have. Type the value, or copy it from another source.",
  },
  {
    isLikely: (text) => /\s/.test(text) && keyInLines.test(text) && text.replace(/\s/g, "").length <= 64,
    advice:
      "The value contains white space. Remove the white space. If a program decoded the value as part of a URL, the space was a plus sign. Restore the plus sign.",
  },
  {
    isLikely: isEncodedTwice,
    advice: "The value is a key that was encoded in base64 twice. Decode the value once.",
  },
  {
    isLikely: (text) => text.length === 32,
    advice: "The value has 32 characters, but the base64 form of a 32-byte key has 43 or 44.",
  },
  {
    isLikely: (text) => /[^A-Za-z0-9+/=_-]/.test(text) && !control.test(text),
    advice:
      'If the value is a passphrase, add the prefix "passphrase:". A passphrase makes a different key, which cannot decrypt records of an earlier key.',
  },
];

/**
 * Returns advice on how to correct a value that is not a valid key. The advice ends with a space. Returns "" if the
 * value shows no common mistake.
 */
export function adviceOn(text: string): string {
  const slip = slips.find(({ isLikely }) => isLikely(text));
  return slip === undefined ? "" : `${slip.advice} `;
}

function looksLikeKey(text: string): boolean {
  return /(?:^|[:=])[A-Za-z0-9+/_-]{43}=?$/.test(text);
}

function isEncodedTwice(text: string): boolean {
  // A key of 44 characters, with or without a line break, has at most 64 characters in base64.
  if (text.length > 64 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return false;
  const bytes = Buffer.from(text, "base64");
  const isKey = /^[A-Za-z0-9+/_-]{43}=?\s*$/.test(bytes.toString("latin1"));
  bytes.fill(0);
  return isKey;
}
