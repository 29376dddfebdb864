import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seal } from "../../src/envelope/envelope.ts";
import { KeywardError, type KeywardErrorCode } from "../../src/errors/errors.ts";
import type { KeyStatus } from "../../src/keyring/key.ts";
import { exportKeyring, Keyring, keyOf, requireSavable, sameKeyring } from "../../src/keyring/keyring.ts";
import { EncryptedStore } from "../../src/store/encrypted-store.ts";
import { leaked, shown } from "../leak.ts";
import { anyKeyId } from "../records.ts";

interface KeyDocument {
  id: string;
  status: KeyStatus;
  created?: string;
  material: string;
  [field: string]: unknown;
}

interface RingDocument {
  keyward: number;
  name: string;
  generation: number;
  primary: string;
  keys: KeyDocument[];
  [field: string]: unknown;
}

const newMaterial = (): string => randomBytes(32).toString("base64url");

function goodDocument(): RingDocument {
  return {
    keyward: 1,
    name: "production",
    generation: 7,
    primary: "2026-11",
    keys: [
      { id: "2025-11", status: "disabled", material: newMaterial() },
      { id: "2026-05", status: "enabled", created: "2026-05-01T00:00:00.000Z", material: newMaterial() },
      { id: "2026-11", status: "enabled", created: "2026-11-01T00:00:00.000Z", material: newMaterial() },
    ],
    stores: ["sessions"],
    sealed: ["flows", ""],
  };
}

const parse = (document: unknown): Keyring => Keyring.parse(JSON.stringify(document));
const documentOf = (ring: Keyring): RingDocument => JSON.parse(exportKeyring(ring));

/** Returns the KeywardError that a call throws. Fails if the call does not throw. */
function refusalOf(call: () => unknown): KeywardError {
  try {
    call();
  } catch (error) {
    if (error instanceof KeywardError) return error;
    throw error;
  }
  throw new Error("The call did not throw");
}

describe("a keyring document", () => {
  it("is exported with the same fields and values with which it was parsed", () => {
    const document = goodDocument();
    expect(documentOf(parse(document))).toEqual(document);
    expect(exportKeyring(Keyring.parse(exportKeyring(parse(document))))).toBe(exportKeyring(parse(document)));
  });

  it("contains the material of each key", () => {
    const material = randomBytes(32);
    const ring = Keyring.fromKeys([{ id: "a", material }]);
    expect(documentOf(ring).keys[0]?.material).toBe(material.toString("base64url"));
    expect(keyOf(Keyring.parse(exportKeyring(ring)), "a")?.root.material()).toEqual(material);
  });

  it("is parsed to a keyring that is equal to the exported keyring, whatever changes that keyring has had", () => {
    const anyName = fc.oneof(fc.string({ unit: "binary", maxLength: 8 }), fc.constantFrom("\ud800", "__proto__", ""));
    const anyStep = fc.oneof(
      fc.tuple(fc.constant("add" as const), anyKeyId),
      fc.tuple(fc.constantFrom("promote" as const, "disable" as const, "enable" as const, "remove" as const), fc.nat()),
      fc.tuple(fc.constantFrom("rename" as const, "withStores" as const, "forbidPlaintext" as const), anyName),
      fc.tuple(fc.constant("created" as const), fc.oneof(anyName, fc.constant("2026-11-01"))),
    );
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 12 }), (steps) => {
        let ring = Keyring.generate();
        for (const [step, argument] of steps) {
          const before = ring;
          const document = exportKeyring(before);
          const at = typeof argument === "number" ? (ring.keys[argument % ring.keys.length]?.id ?? "") : argument;
          try {
            if (step === "withStores") ring = ring.withStores([at]);
            else if (step === "add") ring = ring.add({ id: at });
            else if (step === "created") ring = ring.add({ created: at });
            else ring = ring[step](at);
            expect(ring).not.toBe(before);
            expect(ring.generation).toBe(before.generation + 1);
          } catch (error) {
            if (!(error instanceof KeywardError)) throw error;
          }
          // The change did not affect the keyring that it was called on.
          expect(exportKeyring(before)).toBe(document);
          expect(sameKeyring(Keyring.parse(exportKeyring(ring)), ring)).toBe(true);
        }
      }),
    );
  });

  it("keeps the fields that begin with x-, in the document and in its keys, after every change of the keyring", () => {
    const document = goodDocument();
    const more = { "x-owner": { team: "platform", since: [1, null, "…"] }, "x-": "", "x-__proto__": 1 };
    Object.assign(document, more);
    for (const key of document.keys) Object.assign(key, { "x-hsm": { slot: key.id } });
    const changed = parse(document)
      .add({ id: "2027-05" })
      .promote("2027-05")
      .disable("2026-05")
      .enable("2025-11")
      .remove("2026-11")
      .rename("other")
      .withStores(["a", "b"])
      .forbidPlaintext("more");
    const result = documentOf(changed);
    expect(result).toMatchObject(more);
    expect(result.generation).toBe(document.generation + 8);
    expect(result.keys.map(({ id, "x-hsm": hsm }) => [id, hsm])).toEqual([
      ["2025-11", { slot: "2025-11" }],
      ["2026-05", { slot: "2026-05" }],
      ["2027-05", undefined],
    ]);
    expect(documentOf(changed.add({ id: "2026-11" })).keys.at(-1)).not.toHaveProperty("x-hsm");
  });

  it("is parsed even if it lacks the optional fields", () => {
    const { stores: _, sealed: __, ...document } = goodDocument();
    const ring = parse(document);
    expect([ring.stores, ring.encryptedNamespaces, ring.scopeName]).toEqual([[], [], undefined]);
    expect(documentOf(ring)).toEqual(document);
  });

  describe("parser", () => {
    type Break = (document: RingDocument) => unknown;
    const key = (document: RingDocument, index: number): KeyDocument => {
      const found = document.keys[index];
      if (found === undefined) throw new Error("No such key in the document");
      return found;
    };
    const change =
      (fields: object): Break =>
      (document) => ({ ...document, ...fields });
    const changeKey =
      (index: number, fields: object): Break =>
      (document) => {
        Object.assign(key(document, index), fields);
        return document;
      };
    const cases: readonly [string, Break, KeywardErrorCode, RegExp][] = [
      ["an array", () => [], "KEYRING_INVALID", /the document is not a JSON object/],
      ["null", () => null, "KEYRING_INVALID", /the document is not a JSON object/],
      ["a string", () => "text", "KEYRING_INVALID", /the document is not a JSON object/],
      ["an empty object", () => ({}), "KEYRING_INVALID", /no field "keyward"/],
      [
        "a document inside another",
        (document) => ({ keyring: JSON.stringify(document) }),
        "KEYRING_INVALID",
        /no field "keyward"/,
      ],
      ["a document of version 2", change({ keyward: 2 }), "KEYRING_INVALID", /"keyward" is not 1/],
      ["a version that is a string", change({ keyward: "1" }), "KEYRING_INVALID", /"keyward" is not 1/],
      ["an unknown field", change({ owner: 1 }), "KEYRING_INVALID", /the document has an unknown field "owner"/],
      [
        "a field that begins with X- in capitals",
        change({ "X-owner": 1 }),
        "KEYRING_INVALID",
        /unknown field "X-owner"/,
      ],
      [
        "an unknown field of a key",
        changeKey(1, { note: 1 }),
        "KEYRING_INVALID",
        /keys\[1\] has an unknown field "note"/,
      ],
      ["no name", change({ name: undefined }), "KEYRING_INVALID", /name must be a non-empty/],
      ["an empty name", change({ name: "" }), "KEYRING_INVALID", /name must be a non-empty/],
      ["a name that is not well-formed", change({ name: "\ud800" }), "KEYRING_INVALID", /name must be .*well-formed/],
      [
        "generation 0",
        change({ generation: 0 }),
        "KEYRING_INVALID",
        /its field "generation" is not an integer of at least 1/,
      ],
      [
        "a generation that is a string",
        change({ generation: "7" }),
        "KEYRING_INVALID",
        /its field "generation" is not/,
      ],
      [
        "a generation that is a fraction",
        change({ generation: 1.5 }),
        "KEYRING_INVALID",
        /its field "generation" is not/,
      ],
      [
        "a generation beyond the safe integers",
        change({ generation: 2 ** 53 }),
        "KEYRING_INVALID",
        /its field "generation" is not/,
      ],
      ["no primary", change({ primary: undefined }), "KEYRING_INVALID", /primary must be a non-empty/],
      [
        "a primary that is missing",
        change({ primary: "2024-11" }),
        "KEYRING_INVALID",
        /its primary is key "2024-11", which the keyring does not contain/,
      ],
      [
        "a primary that is disabled",
        change({ primary: "2025-11" }),
        "KEYRING_INVALID",
        /primary "2025-11" is disabled/,
      ],
      [
        "a primary named __proto__",
        change({ primary: "__proto__" }),
        "KEYRING_INVALID",
        /its primary is key "__proto__", which the keyring does not contain/,
      ],
      ["no keys", change({ keys: undefined }), "KEYRING_INVALID", /its field "keys" is not an array/],
      [
        "an empty array of keys",
        change({ keys: [] }),
        "KEYRING_INVALID",
        /its primary is key "2026-11", which the keyring does not contain/,
      ],
      [
        "an object with the keys by id instead of an array",
        change({ keys: { "2026-11": {} } }),
        "KEYRING_INVALID",
        /its field "keys" is not an array/,
      ],
      ["a key that is a string", change({ keys: ["a"] }), "KEYRING_INVALID", /keys\[0\] is not a JSON object/],
      [
        "two keys with the same id",
        changeKey(0, { id: "2026-05" }),
        "KEYRING_INVALID",
        /two keys have the id "2026-05"/,
      ],
      [
        "two keys with the same material",
        (document) => changeKey(0, { material: key(document, 1).material })(document),
        "KEYRING_INVALID",
        /keys "2025-11" and "2026-05" have the same material/,
      ],
      ["an id that is a number", changeKey(1, { id: 5 }), "KEYRING_INVALID", /keys\[1\]\.id is not a string/],
      ["an empty id", changeKey(1, { id: "" }), "KEY_INVALID", /keys\[1\]\.id has 0 characters, where 1 to 32/],
      [
        "an id of 33 characters",
        changeKey(1, { id: "a".repeat(33) }),
        "KEY_INVALID",
        /keys\[1\]\.id has 33 characters, where 1 to 32/,
      ],
      ["an id with a dot", changeKey(1, { id: "a.b" }), "KEY_INVALID", /keys\[1\]\.id has a character other than/],
      ["an id with a line end", changeKey(1, { id: "a\n" }), "KEY_INVALID", /keys\[1\]\.id has a character other than/],
      ["no status", changeKey(1, { status: undefined }), "KEYRING_INVALID", /keys\[1\]\.status is neither/],
      ["an unknown status", changeKey(1, { status: "Disabled" }), "KEYRING_INVALID", /keys\[1\]\.status is neither/],
      [
        "a date that cannot be read",
        changeKey(2, { created: "soon" }),
        "KEYRING_INVALID",
        /keys\[2\]\.created is not a date/,
      ],
      ["a date that is a number", changeKey(2, { created: 1 }), "KEYRING_INVALID", /keys\[2\]\.created is not a date/],
      ["no material", changeKey(1, { material: undefined }), "KEYRING_INVALID", /keys\[1\]\.material is not base64url/],
      ["material as bytes", changeKey(1, { material: [1] }), "KEYRING_INVALID", /keys\[1\]\.material is not base64url/],
      [
        "empty material",
        changeKey(1, { material: "" }),
        "KEY_INVALID",
        /"2026-05" has material of 0 bytes, but must have 32/,
      ],
      ...[16, 31, 33, 64].map((length): (typeof cases)[number] => [
        `material of ${length} bytes`,
        changeKey(1, { material: randomBytes(length).toString("base64url") }),
        "KEY_INVALID",
        new RegExp(`Key "2026-05" has material of ${length} bytes, but must have 32`),
      ]),
      [
        "material that repeats one byte 32 times",
        changeKey(1, { material: Buffer.alloc(32, 7).toString("base64url") }),
        "KEY_INVALID",
        /Key "2026-05" consists of the same byte 32 times/,
      ],
      ...(
        [
          ["with padding", (material) => `${material}=`],
          ["in base64", (material) => `+/${material.slice(2)}`],
          ["with a line end", (material) => `${material}\n`],
          ["with white space", (material) => ` ${material}`],
          ["with stray bits", (material) => `${material.slice(0, -1)}B`],
          ["with a letter beyond ASCII", (material) => `${material.slice(0, -1)}é`],
        ] as const satisfies readonly [string, (material: string) => string][]
      ).map(([what, spoil]): (typeof cases)[number] => [
        `material ${what}`,
        (document) => changeKey(1, { material: spoil(key(document, 1).material) })(document),
        "KEYRING_INVALID",
        /keys\[1\]\.material is not base64url/,
      ]),
      ["an empty scope", change({ scope: "" }), "KEYRING_INVALID", /scope must be a non-empty/],
      ["a scope that is null", change({ scope: null }), "KEYRING_INVALID", /scope must be a non-empty/],
      [
        "stores that are a string",
        change({ stores: "a" }),
        "KEYRING_INVALID",
        /field "stores" is not an array of strings/,
      ],
      [
        "a store that is a number",
        change({ stores: [1] }),
        "KEYRING_INVALID",
        /field "stores" is not an array of strings/,
      ],
      [
        "a sealed namespace that is not well-formed",
        change({ sealed: ["\ud800"] }),
        "KEYRING_INVALID",
        /field "sealed" is not an array/,
      ],
    ];

    it.each(cases)("refuses %s", (_, spoil, code, message) => {
      const document = goodDocument();
      const secrets = document.keys.map(({ material }) => Buffer.from(material, "base64url"));
      const error = refusalOf(() => parse(spoil(document)));
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
      expect(error.hint).not.toBe("");
      for (const secret of secrets) expect(leaked(shown(error), secret)).toBeUndefined();
    });

    it.each(["", "{", "kw1.a.b", "undefined"])("refuses %j, which is not JSON", (text) => {
      expect(refusalOf(() => Keyring.parse(text))).toMatchObject({
        code: "KEYRING_INVALID",
        message: expect.stringContaining("the document is not JSON"),
      });
    });

    it.each(["", "keys[0]"])("refuses a document with a field __proto__ in %j", (where) => {
      const text = JSON.stringify(goodDocument());
      const at = where === "" ? text.indexOf("{") : text.indexOf('{"id"');
      const broken = `${text.slice(0, at + 1)}"__proto__":{"status":"enabled"},${text.slice(at + 1)}`;
      expect(refusalOf(() => Keyring.parse(broken))).toMatchObject({
        code: "KEYRING_INVALID",
        message: expect.stringContaining(`${where || "the document"} has an unknown field "__proto__"`),
      });
    });
  });
});

describe("sameKeyring", () => {
  it("throws VALUE_INVALID for a value that is not a Keyring, such as JavaScript code may pass", () => {
    const ring = Keyring.generate();
    for (const given of [undefined, null, 5, {}, JSON.parse(exportKeyring(ring))]) {
      for (const call of [() => sameKeyring(ring, given), () => exportKeyring(given), () => requireSavable(given)]) {
        expect(call).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
      }
    }
  });

  const [one, other] = [newMaterial(), newMaterial()];
  // Few values for each field, so that two documents are often equal and often differ in one field.
  const anyCreated = fc.constantFrom(undefined, "2026-11-01", "2026-11-02");
  const anyExtension = fc.constantFrom(
    {},
    { "x-a": 1 },
    { "x-a": [1] },
    { "x-b": 1, "x-a": 1 },
    { "x-a": 1, "x-b": 1 },
  );
  const anyParts = fc.record({
    name: fc.constantFrom("a", "b"),
    generation: fc.constantFrom(1, 2),
    primary: fc.constantFrom("a", "b"),
    statusOfOther: fc.constantFrom("enabled", "disabled"),
    createdOfA: anyCreated,
    createdOfB: anyCreated,
    extensionOfA: anyExtension,
    extensionOfB: anyExtension,
    materials: fc.constantFrom([one, other], [other, one]),
    isReversed: fc.boolean(),
    scope: fc.constantFrom(undefined, "a"),
    stores: fc.constantFrom(undefined, [], ["a"], ["a", "b"], ["b", "a"]),
    sealed: fc.constantFrom(undefined, [], ["a"], [""]),
    extension: anyExtension,
  });
  type Parts = typeof anyParts extends fc.Arbitrary<infer Generated> ? Generated : never;

  function parseParts(parts: Parts): Keyring {
    const { name, generation, primary, statusOfOther, scope, stores, sealed } = parts;
    const keys = [
      { id: "a", created: parts.createdOfA, material: parts.materials[0], ...parts.extensionOfA },
      { id: "b", created: parts.createdOfB, material: parts.materials[1], ...parts.extensionOfB },
    ].map((key) => ({ ...key, status: key.id === primary ? "enabled" : statusOfOther }));
    if (parts.isReversed) keys.reverse();
    return parse({ keyward: 1, name, generation, primary, keys, scope, stores, sealed, ...parts.extension });
  }

  /** Generates two keyrings that are equal, or differ in one part. */
  const anyPair = fc.tuple(anyParts, anyParts, fc.nat()).map(([parts, donor, at]) => {
    const part = Object.entries(donor)[at % Object.keys(donor).length] ?? [];
    return [parts, { ...parts, ...Object.fromEntries([part]) }] as const;
  });

  it("returns true exactly if the exported documents are equal", () => {
    const counts = { equal: 0, different: 0 };
    fc.assert(
      fc.property(anyPair, (pair) => {
        const [ring, changed] = [parseParts(pair[0]), parseParts(pair[1])];
        const isEqual = exportKeyring(ring) === exportKeyring(changed);
        counts[isEqual ? "equal" : "different"]++;
        expect(sameKeyring(ring, changed)).toBe(isEqual);
        expect(sameKeyring(changed, ring)).toBe(isEqual);
        expect(sameKeyring(ring, parseParts(pair[0]))).toBe(true);
      }),
      { numRuns: 2_000 },
    );
    expect(Math.min(counts.equal, counts.different)).toBeGreaterThan(50);
  });

  it("returns true for two keyrings without keys, and false if only one of them has no keys", () => {
    expect(sameKeyring(Keyring.dangerouslyPlaintext(), Keyring.dangerouslyPlaintext())).toBe(true);
    expect(sameKeyring(Keyring.dangerouslyPlaintext(), Keyring.generate())).toBe(false);
    expect(sameKeyring(Keyring.generate(), Keyring.dangerouslyPlaintext())).toBe(false);
  });
});

describe("Keyring.fromKeys", () => {
  const material = (): Buffer => randomBytes(32);

  it("makes the first key the primary by default, and derives the id of a key without an id from its material", () => {
    const [one, other] = [material(), material()];
    const ring = Keyring.fromKeys([{ material: one }, { id: "b", material: other }]);
    expect(ring.primary).toMatch(/^k[0-9a-f]{15}$/);
    expect(Keyring.fromKeys([{ material: one }]).primary).toBe(ring.primary);
    expect(Keyring.fromKeys([{ material: one }, { id: "b", material: other }], "b").primary).toBe("b");
  });

  it("copies the material, so that the keyring stays unchanged if the caller overwrites the material", () => {
    const given = material();
    const ring = Keyring.fromKeys([{ id: "a", material: given }]);
    const document = exportKeyring(ring);
    given.fill(0);
    expect(exportKeyring(ring)).toBe(document);
  });

  it("accepts __proto__ as the id of a key", () => {
    const ring = Keyring.generate("a").add({ id: "__proto__" });
    expect(keyOf(ring, "__proto__")?.id).toBe("__proto__");
    expect(keyOf(Keyring.generate("a"), "__proto__")).toBeUndefined();
    expect(keyOf(Keyring.generate("a"), "constructor")).toBeUndefined();
    const promoted = Keyring.parse(exportKeyring(ring.promote("__proto__").remove("a")));
    expect(promoted.keys.map(({ id }) => id)).toEqual(["__proto__"]);
  });

  it("refuses an empty list of keys, and a key with an id, material, status or date that is not valid", () => {
    // A caller without types could pass these.
    const anything = (value: object): { material: Uint8Array } => Object.assign({ material: material() }, value);
    expect(refusalOf(() => Keyring.fromKeys([])).code).toBe("KEYRING_INVALID");
    for (const broken of [
      { material: new Uint8Array(31) },
      { material: new Uint8Array(33) },
      { material: new Uint8Array(32) },
      { material: new Uint8Array(32).fill(255) },
      { material: newMaterial() },
      { material: undefined },
      { id: "" },
      { id: "a b" },
      { id: 5 },
      { status: "Disabled" },
      { status: "primary" },
      { created: "yesterday" },
    ]) {
      expect(refusalOf(() => Keyring.fromKeys([anything(broken)])).code, JSON.stringify(broken)).toBe("KEY_INVALID");
      if (broken.material === undefined && "material" in broken) continue;
      expect(refusalOf(() => Keyring.generate("p").add(anything(broken))).code).toBe("KEY_INVALID");
    }
  });

  it("refuses two keys with the same id or material, and a primary that is missing or disabled", () => {
    const one = material();
    const refusals = [
      () =>
        Keyring.fromKeys([
          { id: "a", material: one },
          { id: "a", material: material() },
        ]),
      () =>
        Keyring.fromKeys([
          { id: "a", material: one },
          { id: "b", material: one },
        ]),
      () => Keyring.fromKeys([{ material: one }, { material: one }]),
      () => Keyring.fromKeys([{ id: "a", material: one }], "b"),
      () => Keyring.fromKeys([{ id: "a", material: one, status: "disabled" }]),
      () => Keyring.fromKeys([{ id: "a", material: one }]).add({ id: "a" }),
      () => Keyring.fromKeys([{ id: "a", material: one }]).add({ id: "b", material: one }),
    ];
    for (const refused of refusals) expect(refusalOf(refused).code).toBe("KEYRING_INVALID");
  });

  it("uses the given material, and Keyring.generate makes new material in each call", () => {
    const materials = Array.from({ length: 20 }, () => documentOf(Keyring.generate("a")).keys[0]?.material);
    expect(new Set(materials).size).toBe(20);
  });
});

describe("a change of a keyring", () => {
  it("is refused if it disables or removes the primary", () => {
    const ring = Keyring.generate("a").add({ id: "b" });
    for (const change of [() => ring.disable("a"), () => ring.remove("a")]) {
      const message = expect.stringContaining('its primary "a" cannot be');
      expect(refusalOf(change)).toMatchObject({ code: "KEYRING_INVALID", keyId: "a", message });
    }
    expect(refusalOf(() => ring.disable("b").promote("b"))).toMatchObject({ code: "KEY_DISABLED", keyId: "b" });
    expect(ring.promote("b").disable("a").keys).toMatchObject([
      { id: "a", status: "disabled" },
      { id: "b", status: "enabled" },
    ]);
  });

  it.each(["promote", "disable", "enable", "remove"] as const)(
    "is refused by %s() if the keyring has no key with the given id",
    (change) => {
      const ring = Keyring.generate("a");
      for (const id of ["b", "__proto__", "constructor", ""]) {
        expect(refusalOf(() => ring[change](id)).code).toBe("KEY_UNKNOWN");
      }
    },
  );

  it("returns a new keyring, and leaves the former keyring unchanged", () => {
    const ring = Keyring.generate("a");
    expect(Object.isFrozen(ring)).toBe(true);
    const { keys } = ring;
    Object.assign(keys[0] ?? {}, { status: "disabled" });
    expect(ring.keys[0]?.status).toBe("enabled");
  });
});

describe("a scoped keyring", () => {
  const ring = Keyring.generate("a").add({ id: "b", status: "disabled" });

  it("has the key ids and statuses of the unscoped keyring, but other material for each scope", () => {
    const rings = [ring, ring.scope("one"), ring.scope("other"), ring.scope("One"), ring.scope("one\0")];
    for (const scoped of rings) {
      expect(scoped.keys.map(({ id, status }) => [id, status])).toEqual([
        ["a", "enabled"],
        ["b", "disabled"],
      ]);
    }
    const materials = rings.flatMap((scoped) => documentOf(scoped).keys.map(({ material }) => material));
    expect(new Set(materials).size).toBe(10);
    expect(sameKeyring(ring.scope("one"), ring.scope("one"))).toBe(true);
  });

  it("cannot be changed by any method, and cannot be scoped again", () => {
    const scoped = ring.scope("one");
    const changes = [
      () => scoped.add(),
      () => scoped.promote("a"),
      () => scoped.disable("b"),
      () => scoped.enable("b"),
      () => scoped.remove("b"),
      () => scoped.rename("x"),
      () => scoped.withStores(["x"]),
      () => scoped.forbidPlaintext("x"),
      () => scoped.scope("one"),
      () => scoped.scope("two"),
    ];
    for (const change of changes) expect(refusalOf(change).code).toBe("KEYRING_INVALID");
    for (const change of changes.slice(0, 8)) expect(refusalOf(change).message).toContain('scoped to "one"');
  });

  it("is exported with the name of its scope, and parsed to an equal keyring", () => {
    const scoped = ring.scope("one");
    expect(documentOf(scoped)["scope"]).toBe("one");
    const again = Keyring.parse(exportKeyring(scoped));
    expect(again.scopeName).toBe("one");
    expect(sameKeyring(again, scoped)).toBe(true);
    expect(refusalOf(() => again.scope("two")).code).toBe("KEYRING_INVALID");
    expect(refusalOf(() => again.add()).code).toBe("KEYRING_INVALID");
    expect(leaked(exportKeyring(scoped), keyOf(ring, "a")?.root.material() ?? randomBytes(32))).toBeUndefined();
  });

  it("must have a well-formed name of 1 to 1,000 bytes", () => {
    for (const name of ["", "\ud800", "x".repeat(1_001), "é".repeat(501)]) {
      expect(refusalOf(() => ring.scope(name)).code).toBe("KEYRING_INVALID");
    }
    expect(ring.scope("é".repeat(500)).scopeName).toHaveLength(500);
  });

  it("decrypts only records of the scope that it was derived for", async () => {
    const map = new Map<string, unknown>();
    await new EncryptedStore(map, { keys: ring, scope: "one" }).set("key", "value");
    const read = (keys: Keyring, scope?: string): Promise<unknown> =>
      new EncryptedStore(new Map(map), scope === undefined ? { keys } : { keys, scope }).get("key");
    await expect(read(ring, "one")).resolves.toBe("value");
    await expect(read(ring.scope("one"))).resolves.toBe("value");
    await expect(read(Keyring.parse(exportKeyring(ring.scope("one"))), "one")).resolves.toBe("value");
    await expect(read(ring)).rejects.toMatchObject({ code: "KEY_MISMATCH" });
    await expect(read(ring, "other")).rejects.toMatchObject({ code: "KEY_MISMATCH" });
    await expect(read(ring.scope("one"), "other")).rejects.toMatchObject({ code: "KEYRING_INVALID" });
  });
});

describe("key material", () => {
  const materials = [randomBytes(32), randomBytes(32), randomBytes(32)];
  const [first, second, third] = materials;
  const ring = Keyring.fromKeys(
    materials.map((material, index) => ({ id: `k${index}`, material })),
    "k0",
  ).disable("k2");

  function expectNothing(value: unknown): void {
    const text = shown(value);
    for (const material of materials) expect(leaked(text, material)).toBeUndefined();
  }

  it("is found by the checks of these tests if a text or an object contains it", () => {
    for (const encoding of ["hex", "base64", "base64url", "latin1"] as const) {
      const text = first?.toString(encoding) ?? "";
      expect(leaked(`x${text.slice(10, 26)}x`, first ?? randomBytes(32)), encoding).toBeDefined();
    }
    for (const value of [first, { deep: [{ deeper: { first } }] }, new Error("x", { cause: { first } })]) {
      expect(leaked(shown(value), first ?? randomBytes(32))).toBeDefined();
    }
    expect(exportKeyring(ring)).toContain(second?.toString("base64url"));
  });

  it("is not shown when a keyring, its keys or an object that contains the keyring is printed or turned into JSON", () => {
    const store = new EncryptedStore(new Map(), { keys: ring });
    for (const value of [
      ring,
      ring.keys,
      ring.scope("s"),
      ring.toJSON(),
      { ring },
      [ring],
      new Map([["ring", ring]]),
      store,
    ]) {
      expectNothing(value);
    }
    expectNothing(keyOf(ring, "k0"));
    expectNothing(keyOf(ring, "k0")?.root);
    expect(String(ring)).toMatch(/k0 primary, k1 enabled, k2 disabled/);
    expect(JSON.stringify(ring)).toContain('"k1"');
  });

  it("is not shown by the errors of the methods that change a keyring", () => {
    const calls = [
      () => ring.add({ id: "k0" }),
      () => ring.add({ id: "k3", ...(second === undefined ? {} : { material: second }) }),
      () => ring.add({ material: Buffer.concat([second ?? Buffer.alloc(0), Buffer.of(1)]) }),
      () => ring.disable("k0"),
      () => ring.promote("k2"),
      () => ring.promote("k9"),
      () => ring.scope("s").add(),
    ];
    for (const call of calls) expectNothing(refusalOf(call));
  });

  it("is not shown by the error if a caller passes it as the id of a key", () => {
    for (const encoding of ["base64", "base64url", "hex", "latin1"] as const) {
      const text = third?.toString(encoding) ?? "";
      const document = goodDocument();
      const calls = [
        () => Keyring.generate(text),
        () => Keyring.fromKeys([{ id: text, material: randomBytes(32) }]),
        () => Keyring.fromKeys([{ id: "a", material: randomBytes(32) }], text),
        () => ring.add({ id: text }),
        () => ring.promote(text),
        () => ring.disable(text),
        () => ring.enable(text),
        () => ring.remove(text),
        () => parse({ ...document, primary: text }),
        () => parse({ ...document, generation: text }),
        () => parse({ ...document, [text]: 1 }),
        () => parse({ ...document, scope: [text] }),
        () =>
          parse({ ...document, keys: [...document.keys, { id: text, status: "enabled", material: newMaterial() }] }),
        () => parse({ ...document, keys: [{ id: "a", status: text, material: newMaterial() }] }),
        () => parse({ ...document, keys: [{ id: "a", status: "enabled", created: text, material: newMaterial() }] }),
        () => parse({ ...document, keys: [{ id: "a", status: "enabled", material: `${text}!` }] }),
        () => parse({ ...document, keys: [text] }),
        () => Keyring.parse(text),
        () => Keyring.parse(`"${text}`),
      ];
      for (const call of calls) expectNothing(refusalOf(call));
    }
  });

  it("is not shown by the errors about a keyring document, wherever the document is damaged", () => {
    const anyEdit = fc.record({
      at: fc.nat(),
      cut: fc.nat({ max: 5 }),
      put: fc.oneof(
        fc.constant(""),
        fc.string({ maxLength: 2 }),
        fc.constantFrom('"', ",", ":", "{", "}", "[", "\\", "é"),
      ),
    });
    const text = exportKeyring(ring);
    let parsed = 0;
    fc.assert(
      fc.property(fc.array(anyEdit, { minLength: 1, maxLength: 3 }), fc.option(fc.nat()), (edits, end) => {
        const damaged = edits.reduce((before, { at, cut, put }) => {
          const index = at % before.length;
          return before.slice(0, index) + put + before.slice(index + cut);
        }, text);
        try {
          expectOnlyIds(Keyring.parse(end === null ? damaged : damaged.slice(0, end % (damaged.length + 1))));
          parsed++;
        } catch (error) {
          if (!(error instanceof KeywardError)) throw error;
          expect(error.code).toMatch(/^(KEYRING_INVALID|KEY_INVALID)$/);
          expect(error.cause).toBeUndefined();
          for (const material of materials)
            expect(leaked(`${error.message} ${error.hint}`, material, 6)).toBeUndefined();
        }
      }),
      { numRuns: 1_500 },
    );
    // At least one damaged document must still parse, or half of the property was not tested.
    expect(parsed).toBeGreaterThan(0);

    function expectOnlyIds(damagedRing: Keyring): void {
      for (const material of materials) expect(leaked(damagedRing.toString(), material)).toBeUndefined();
    }
  });

  it("is not in the memory that Node's small Buffers share, after a keyring was used", () => {
    const document = goodDocument();
    const secrets = document.keys.map(({ material }) => Buffer.from(material, "base64url"));
    const parsed = parse(document);
    exportKeyring(parsed);
    const scoped = parsed.scope("one");
    // The secrets that this test decoded are in that memory too, and are erased.
    const copies = secrets.map((secret) => Buffer.alloc(32, secret));
    for (const secret of secrets) secret.fill(0);
    const key = keyOf(scoped, "2026-11");
    if (key === undefined) throw new Error("The keyring lacks its key");
    const sealed = seal(key.id, key.root, { namespace: "", key: "k" }, { value: "v" }, { form: "binary" });
    if (typeof sealed === "string") throw new Error("A string in the binary form");
    // A clone of a Buffer contains all the memory that the Buffer shares.
    const around = Buffer.from(structuredClone(sealed.buffer));
    for (const copy of copies) expect(around.includes(copy)).toBe(false);
  });
});

describe("the hint of an error about a keyring", () => {
  const ring = Keyring.generate("a");
  const document: { keys: { material: string }[] } = JSON.parse(exportKeyring(ring));

  function hintOf(make: () => unknown): string {
    try {
      make();
    } catch (error) {
      if (error instanceof KeywardError) return error.hint;
      throw error;
    }
    return expect.fail("was not refused");
  }

  it("first names what to restore, and advises enabling a disabled key only if that key is not compromised", () => {
    const cut = JSON.stringify({
      ...document,
      keys: document.keys.map((key) => ({ ...key, material: key.material.slice(0, 30) })),
    });
    const restores = [
      hintOf(() => Keyring.parse("no document")),
      hintOf(() => Keyring.parse(cut)),
      hintOf(() => Keyring.fromKeys([{ material: new Uint8Array(16) }])),
      hintOf(() => Keyring.fromKeys([{ id: "a", material: randomBytes(32) }], "b")),
    ];
    for (const hint of restores) expect(hint).toMatch(/^(?:If records were written under this key, restore|Restore)/);
    expect(hintOf(() => Keyring.parse(`\uFEFF${exportKeyring(ring)}`))).toMatch(/^Store the document as UTF-8/);
    const disabled = ring.add({ id: "b" }).disable("b");
    expect(hintOf(() => disabled.promote("b"))).toMatch(/not compromised/);
  });
});
