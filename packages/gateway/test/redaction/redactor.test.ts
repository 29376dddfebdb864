import crypto, { randomInt } from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { inspect } from "node:util";
import fc from "fast-check";
import { afterAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { DecodedText } from "../../src/redaction/decoded-text.ts";
import { Needles } from "../../src/redaction/needles.ts";
import { Redactor, redactText } from "../../src/redaction/redactor.ts";
import { chunksOf, credential, inLayers, layers, wholes } from "./encoders.ts";

/** How many random cases each property tries. */
const runs = Number(process.env["KEYWARD_REDACTIONS"] ?? 1_000);

/** The same seed repeats the cases of a run. */
const seed = Number(process.env["KEYWARD_REDACTIONS_SEED"] ?? randomInt(2 ** 31));
let tried = 0;

function assertProperty<Values>(property: fc.IPropertyWithHooks<Values>): void {
  fc.assert(property, { numRuns: runs, seed });
  tried += runs;
}

afterAll(() => {
  if (process.env["KEYWARD_REDACTIONS"] !== undefined) console.log(`${tried} random cases, seed ${seed}`);
});

const secret = (value: string, basic = false) => ({ value, basic });

function redact(needles: Needles, chunks: readonly Uint8Array[], framing: "lines" | "bytes" = "bytes") {
  const redactor = new Redactor(needles, { framing });
  const passedOn = [...chunks.map((chunk) => redactor.write(chunk)), redactor.end()];
  return {
    text: Buffer.concat(passedOn.flat()).toString("latin1"),
    hits: redactor.hits,
    sizes: passedOn.map((pieces) => pieces.map(({ length }) => length)),
  };
}

const latin1 = (text: string) => Buffer.from(text).toString("latin1");

/** Text around a value that no decoding joins with the value. */
const before = fc.constantFrom("", " ", '{"a":"', "\ndata: ", "x y, ", "<p>", "é ", "~".repeat(400), "&amp; ", "%20 ");
const after = fc.constantFrom("", " ", '"}', "\n", "</p>", " é", "~".repeat(400), " &amp;", " %20", '","b":"c"}\n\n');

const cuts = fc.array(fc.nat(), { maxLength: 8 });
const framing = fc.constantFrom("lines" as const, "bytes" as const);

/** Whether enough of a value is left if each escape in the value itself is a character. */
const isLongEnough = (value: string) =>
  value.replaceAll("\\", "").replace(/%[\da-f]{2}|&#?\w+;/gi, "x").length >= 8 && !/^\\|\\$/.test(value);

describe("the redactor", () => {
  it("finds a value however each character is written, in any nesting and in any chunks", () => {
    assertProperty(
      fc.property(
        credential(8, 60).filter(isLongEnough),
        fc.array(fc.constantFrom(layers.json, layers.percent, layers.html), { maxLength: 3 }),
        fc.array(fc.nat(11), { minLength: 1, maxLength: 200 }),
        before,
        after,
        cuts,
        framing,
        (value, encoders, choices, start, end, places, frame) => {
          let next = 0;
          const choose = (count: number) => (choices[next++ % choices.length] ?? 0) % count;
          const encoded = inLayers(value, encoders, choose);
          fc.pre(Buffer.byteLength(encoded) <= 8 * Buffer.byteLength(value) && !/^\d+$/.test(value));
          const needles = new Needles([secret(value)]);
          const { text, hits } = redact(needles, chunksOf(Buffer.from(start + encoded + end), places), frame);
          expect(text).toBe(latin1(`${start}REDACTED${end}`));
          expect(hits).toBe(1);
        },
      ),
    );
  });

  it("finds each form in which programs write a value, even inside JSON, JSON in JSON, URLs and HTML", () => {
    assertProperty(
      fc.property(
        credential(8, 60).filter(isLongEnough),
        fc.constantFrom(...Object.values(wholes)),
        fc.array(fc.constantFrom(layers.json, layers.percent, layers.html), { maxLength: 2 }),
        before,
        after,
        cuts,
        (value, whole, encoders, start, end, places) => {
          const encoded = inLayers(value, [whole, ...encoders], () => 0);
          fc.pre(Buffer.byteLength(encoded) <= 8 * Buffer.byteLength(value) && !/^\d+$/.test(value));
          const needles = new Needles([secret(value)]);
          expect(redact(needles, chunksOf(Buffer.from(start + encoded + end), places)).text).toBe(
            latin1(`${start}REDACTED${end}`),
          );
        },
      ),
    );
  });

  it("finds base64 and base64url of a value, whatever stands before and after the value", () => {
    assertProperty(
      fc.property(
        credential(8, 60),
        fc.string({ maxLength: 5 }),
        fc.string({ maxLength: 5 }),
        fc.constantFrom("base64" as const, "base64url" as const),
        fc.constantFrom("", "\\/", "\\u002f"),
        (value, start, end, alphabet, slash) => {
          // The text around such a value may be a part of its escaped form, which is then replaced as a whole.
          fc.pre(!/^["\\]|[\\%]$/.test(value));
          const [head, own] = [start, start + value].map((text) => Buffer.byteLength(text));
          const whole = Buffer.from(start + value + end).toString(alphabet);
          const from = Math.ceil(((head ?? 0) * 8) / 6);
          const to = Math.floor(((own ?? 0) * 8) / 6);
          const written = (text: string) => (slash === "" ? text : text.replaceAll("/", slash));
          const { text } = redact(new Needles([secret(value)]), [Buffer.from(written(whole))]);
          // A slash at the edge may lose its backslash.
          expect(text.replaceAll("\\", "")).toBe(
            `${written(whole.slice(0, from))}REDACTED${written(whole.slice(to))}`.replaceAll("\\", ""),
          );
        },
      ),
    );
  });

  it("finds the same hits as a simple search at each position, for many similar values", () => {
    const part = fc.string({ unit: fc.constantFrom("a", "b", "1"), minLength: 8, maxLength: 40 });
    assertProperty(
      fc.property(
        fc.array(part, { minLength: 1, maxLength: 4 }),
        fc.array(fc.oneof(fc.nat(3), fc.string({ unit: fc.constantFrom("a", "b", "1", "\n"), maxLength: 20 })), {
          maxLength: 12,
        }),
        cuts,
        framing,
        (values, pieces, places, frame) => {
          const text = pieces.map((piece) => (typeof piece === "number" ? (values[piece] ?? "") : piece)).join("");
          const needles = new Needles(values.map((value) => secret(value)));
          const result = redact(needles, chunksOf(Buffer.from(text), places), frame);
          expect(result).toMatchObject(redactedByBruteForce(text, values));
        },
      ),
    );
  });

  it("passes on the same text whatever the chunks, also if the text is made of beginnings of escapes", () => {
    const unit = fc.constantFrom(..."\\%&;#xu0125ab\n", "\\u0", "&#x", "%2", "abc");
    const hostile = fc.string({ unit, maxLength: 60 });
    assertProperty(
      fc.property(
        fc.string({ unit, minLength: 16, maxLength: 40 }),
        fc.array(hostile, { maxLength: 6 }),
        cuts,
        framing,
        (value, texts, places, frame) => {
          const needles = new Needles([secret(value)]);
          const bytes = Buffer.from(texts.join(JSON.stringify(value).slice(1, -1)));
          expect(redact(needles, chunksOf(bytes, places), frame)).toMatchObject({
            ...redact(needles, [bytes], frame),
            sizes: expect.any(Array),
          });
        },
      ),
    );
  });

  it("finds a value that is made of beginnings of escapes, and comes again and again, in any chunks", () => {
    const value = "\\&\\1abc5&#xb5&\\\\u0&#x%2\\u";
    const escaped = JSON.stringify(value).slice(1, -1);
    const bytes = Buffer.from(`${escaped}&b50${escaped.repeat(3)}&#x\\x0x`);
    for (let cut = 0; cut <= bytes.length; cut++) {
      const { text, hits } = redact(new Needles([secret(value)]), chunksOf(bytes, [cut]));
      expect(text).toBe(`REDACTED&b50${"REDACTED".repeat(3)}&#x\\x0x`);
      expect(hits).toBe(4);
    }
  });

  it("finds a value whose first five bytes the text before the value hides", () => {
    const needles = new Needles([secret("46000-a-value-of-30-bytes-<abc")]);
    expect(redactText(needles, "a \\u%46000-a-value-of-30-bytes-\\u003cabc").text).not.toContain("value");
  });

  it("passes on no half of a value, whatever text a caller places before and after the value in an answer", () => {
    const hostile = fc.string({
      unit: fc.constantFrom("\\", "%", "&", ";", "#", "x", "u", "0", "4", "a", "\\u00", "&#"),
      maxLength: 8,
    });
    // The text before a value can hide five bytes of the value. Of fewer than 20 bytes, that is more than the first quarter.
    const value = fc.string({ unit: fc.constantFrom(..."0123456789abcdefXYZ-_<"), minLength: 20, maxLength: 48 });
    assertProperty(
      fc.property(
        value,
        hostile,
        hostile,
        fc.constantFrom(layers.json, layers.percent, layers.html),
        fc.array(fc.nat(11), { minLength: 1, maxLength: 60 }),
        (text, start, end, encode, choices) => {
          fc.pre(!/^\d+$/.test(text));
          let next = 0;
          const choose = (count: number) => (choices[next++ % choices.length] ?? 0) % count;
          const characters = [...text].map((character) => encode(character, choose));
          const result = redact(new Needles([secret(text)]), [Buffer.from(start + characters.join("") + end)]).text;
          const quarter = text.length >> 2;
          expect(result).not.toContain(characters.slice(quarter, 3 * quarter).join(""));
        },
      ),
    );
  });
});

describe("the work of a search", () => {
  it("reads what is uncertain once, also for a value that is made of beginnings of escapes", () => {
    for (const opener of ["%", "&"]) {
      const settledLength = vi.spyOn(DecodedText.prototype, "settledLength", "get");
      onTestFinished(() => settledLength.mockRestore());
      const needles = new Needles([secret(opener.repeat(16))]);
      settledLength.mockClear();
      expect(redact(needles, [Buffer.from(opener.repeat(4_096))])).toMatchObject({ text: "REDACTED", hits: 1 });
      // The bytes are decoded 4 KiB at a time.
      expect(settledLength.mock.calls.length).toBeLessThanOrEqual(2);
      settledLength.mockRestore();
    }
  });

  it.each([
    ["", "REDACTED"],
    ["%61", "REDACTED"],
    ["%2d\n", "%2d\nREDACTED"],
  ])("compares few bytes if a value can begin at each byte of an answer, behind %j", (start, expected) => {
    const needles = new Needles([secret("a".repeat(1_000))]);
    let compared = 0;
    const original = crypto.timingSafeEqual;
    const counting = vi.spyOn(crypto, "timingSafeEqual").mockImplementation((one, other) => {
      compared += one.byteLength;
      return original(one, other);
    });
    syncBuiltinESMExports();
    onTestFinished(() => {
      counting.mockRestore();
      syncBuiltinESMExports();
    });
    const { text, hits } = redact(needles, [Buffer.from(start + "a".repeat(50_000))]);
    expect(compared).toBeGreaterThan(1_000);
    expect(compared).toBeLessThan(100 * 50_000);
    expect([text, hits]).toEqual([expected, 1]);
  });

  it("finds each occurrence of a value that overlaps with itself, with escapes and in any chunks", () => {
    const unit = fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 6 });
    assertProperty(
      fc.property(
        unit,
        fc.integer({ min: 40, max: 90 }),
        fc.array(fc.tuple(fc.nat(150), fc.constantFrom("", "a", "b", "-")), { minLength: 1, maxLength: 6 }),
        cuts,
        framing,
        (part, length, runsOfUnit, places, frame) => {
          const value = part.repeat(length).slice(0, length);
          const text = runsOfUnit.map(([count, end]) => part.repeat(150).slice(0, count) + end).join("");
          const needles = new Needles([secret(value)]);
          const plain = redactedByBruteForce(text, [value]);
          expect(redact(needles, chunksOf(Buffer.from(text), places), frame)).toMatchObject(plain);
          const behindEscape = redact(needles, chunksOf(Buffer.from(`%2d\n${text}`), places), frame);
          expect(behindEscape).toMatchObject({ text: `%2d\n${plain.text}`, hits: plain.hits });
        },
      ),
    );
  });
});

describe("the number of bytes that are held back", () => {
  it("does not depend on how much of a value an answer contains", () => {
    const value = fc.string({
      unit: fc.constantFrom(..."abcdefghijklmnopqrstuvwxyz0123456789"),
      minLength: 48,
      maxLength: 48,
    });
    assertProperty(
      fc.property(
        value,
        fc.nat(40),
        fc.integer({ min: 1, max: 7 }),
        fc.nat(2_000),
        cuts,
        framing,
        fc.boolean(),
        (text, from, count, position, places, frame, isHeadKnown) => {
          const needles = new Needles([secret(text)]);
          const filler = Buffer.alloc(2_100, isHeadKnown ? text.slice(0, 12) : ".");
          const body = Buffer.from(filler);
          body.write(text.slice(from, from + count), position);
          const [with_, without] = [body, filler].map((bytes) => redact(needles, chunksOf(bytes, places), frame));
          expect(with_?.sizes).toEqual(without?.sizes);
          expect(with_?.hits).toBe(0);
        },
      ),
    );
  });

  it("is the reach of the longest value less one byte, and of an event stream the line that has not ended", () => {
    const needles = new Needles([secret("a value of 20 bytes!")]);
    const bytes = new Redactor(needles, { framing: "bytes" });
    expect(Buffer.concat(bytes.write(Buffer.alloc(1_000, "x")))).toHaveLength(1_000 - (8 * 20 + 15));
    const lines = new Redactor(needles, { framing: "lines" });
    expect(Buffer.concat(lines.write(Buffer.from("data: a\r\n\r\ndata: b"))).toString()).toBe("data: a\r\n\r\n");
    expect(Buffer.concat(lines.write(Buffer.from("c\n"))).toString()).toBe("data: bc\n");
    expect(lines.end()).toHaveLength(0);
  });

  it("is bounded if a line never ends", () => {
    const redactor = new Redactor(new Needles([secret("a value of 20 bytes!")]), { framing: "lines" });
    let passedOn = 0;
    for (let round = 0; round < 64; round++)
      passedOn += Buffer.concat(redactor.write(Buffer.alloc(16_384, "x"))).length;
    expect(passedOn).toBe(64 * 16_384 - 65_536);
    expect(Buffer.concat(redactor.end())).toHaveLength(65_536);
  });

  it("is zero if there is no value", () => {
    const redactor = new Redactor(new Needles([]), { framing: "bytes" });
    expect(redactor.write(Buffer.from("abc"))).toEqual([Buffer.from("abc")]);
    expect(redactor.end()).toHaveLength(0);
  });
});

describe("a value", () => {
  it("is replaced by as many zeros if it has only digits, but not where it is escaped", () => {
    const needles = new Needles([secret("4929123412341234")]);
    expect(redactText(needles, "card 4929123412341234.").text).toBe("card 0000000000000000.");
    expect(redactText(needles, "card %34929123412341234.").text).toBe("card REDACTED.");
  });

  it("that is a user and a password is found as a pair in base64, and the password by itself", () => {
    const needles = new Needles([secret("user:long password", true)]);
    const pair = Buffer.from("user:long password").toString("base64");
    expect(redactText(needles, `Basic ${pair}`).text).toMatch(/^Basic REDACTED.?=*$/);
    expect(redactText(needles, "the password is long+password")).toEqual({ text: "the password is REDACTED", hits: 1 });
  });

  it("is found in base64 of JSON, of a URL and of a header of Basic authentication, whatever stands around", () => {
    const value = 'user:long/+pass"word\\é';
    const inner = [
      JSON.stringify({ a: value }),
      `https://host/?a=${encodeURIComponent(value)}`,
      JSON.stringify({ authorization: `Basic ${Buffer.from(value).toString("base64")}` }),
    ];
    const needles = new Needles([secret(value, true)]);
    for (const text of inner) {
      for (const alphabet of ["base64", "base64url"] as const) {
        for (let shift = 0; shift < 3; shift++) {
          const redacted = redactText(needles, Buffer.from(" ".repeat(shift) + text).toString(alphabet));
          expect(redacted.hits).toBe(1);
          const [head = "", tail = ""] = redacted.text.split("REDACTED");
          const left = Buffer.from(head, "base64").toString() + Buffer.from(tail, "base64").toString("latin1");
          for (const part of ["user", "long", "dXNl", "word"]) expect(left).not.toContain(part);
        }
      }
    }
  });

  it("that is a URL is found by its password too, as it is and decoded", () => {
    const needles = new Needles([secret("postgres://user:long%20password@host/db")]);
    expect(redactText(needles, "long%20password, long password").text).toBe("REDACTED, REDACTED");
  });

  it("beyond ASCII is found as UTF-8, as Latin-1, and as UTF-8 that was read as Latin-1", () => {
    const value = "contraseña-secreta";
    const needles = new Needles([secret(value)]);
    const utf8 = Buffer.from(value);
    for (const bytes of [utf8, Buffer.from(value, "latin1"), Buffer.from(utf8.toString("latin1"))]) {
      expect(redact(needles, [bytes]).text).toBe("REDACTED");
      expect(redact(needles, [Buffer.from(bytes.toString("hex"))]).text).toBe("REDACTED");
    }
    expect(redact(needles, [Buffer.from("contrase\\u00F1a-secreta")]).text).toBe("REDACTED");
    expect(redact(needles, [Buffer.from("contrase%F1a-secreta")]).text).toBe("REDACTED");
    expect(redactText(needles, value)).toEqual({ text: "REDACTED", hits: 1 });
  });

  it("is found where characters beyond 16 bits are two escapes", () => {
    const needles = new Needles([secret("key-😀-of-the-service")]);
    for (const character of ["\\ud83d\\ude00", "\\uD83D\\uDE00", "&#128512;", "&#x1F600;", "%F0%9F%98%80"]) {
      expect(redactText(needles, `<key-${character}-of-the-service>`).text).toBe("<REDACTED>");
    }
  });

  it("keeps a backslash at its ends in escaped forms, and nothing else", () => {
    const needles = new Needles([secret("\\domain\\user:pass\\")]);
    expect(redactText(needles, '"\\\\domain\\\\user:pass\\\\"').text).toMatch(/^"\\*REDACTED\\*"$/);
  });

  it("finds a value of 8 bytes that ends with the beginning of an escape, as it is and in its usual escaped forms", () => {
    for (const value of ["abcdefg\\", "abcdefg%", "abcdefg&", "abcdef&#"]) {
      const needles = new Needles([secret(value)]);
      for (const text of [value, JSON.stringify(value).slice(1, -1), encodeURIComponent(value)]) {
        expect(redactText(needles, `{"a":"${text}"}`)).toEqual({ text: '{"a":"REDACTED"}', hits: 1 });
      }
    }
  });

  it("does not appear when the needles are inspected", () => {
    const needles = new Needles([secret("a value of 20 bytes!")]);
    const redactor = new Redactor(needles, { framing: "bytes" });
    redactor.write(Buffer.from("a value of 20"));
    expect(inspect([needles, redactor], { depth: 9, showHidden: true })).not.toContain("a value");
    expect(JSON.stringify([needles, redactor])).not.toContain("a value");
  });
});

/** Replaces values without escapes: looks for each value at each position. */
function redactedByBruteForce(text: string, values: readonly string[]): { text: string; hits: number } {
  const found = [...text].flatMap((_, start) =>
    values.filter((value) => text.startsWith(value, start)).map((value) => ({ start, end: start + value.length })),
  );
  let result = "";
  let hits = 0;
  let covered = 0;
  let isZeros = false;
  for (const { start, end } of found.sort((a, b) => a.start - b.start || b.end - a.end)) {
    if (end <= covered) continue;
    const isNew = start >= covered;
    const isDigits = /^\d+$/.test(text.slice(start, end));
    if (isNew) result += text.slice(covered, start);
    if (isNew) hits++;
    if (isNew || isZeros) result += isDigits ? "0".repeat(end - Math.max(start, covered)) : "REDACTED";
    isZeros = isDigits && (isNew || isZeros);
    covered = end;
  }
  return { text: result + text.slice(covered), hits };
}
