import { createHmac, createSecretKey, randomBytes } from "node:crypto";
import fc from "fast-check";
import { expect, it } from "vitest";
import { McpRefusedError, openSessionId, sealSessionId } from "../../src/mcp/index.ts";

const key = createSecretKey(randomBytes(32));
const place = { workspace: "w1", server: "s1", owner: "ada" };
const visibleAscii = fc.string({
  unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
  minLength: 1,
  maxLength: 1_024,
});

it("openSessionId opens each id that sealSessionId returned, for the same owner at the same server", () => {
  fc.assert(
    fc.property(visibleAscii, fc.string(), fc.string(), fc.string(), (id, workspace, server, owner) => {
      const sealed = sealSessionId(key, { workspace, server, owner }, id);
      expect(sealed).toMatch(/^[\w-]{43}\.[\x21-\x7e]+$/);
      expect(openSessionId(key, { workspace, server, owner }, sealed)).toBe(id);
    }),
  );
});

it("openSessionId refuses an id for another workspace, server, owner or key", () => {
  const sealed = sealSessionId(key, place, "upstream");
  expect(openSessionId(key, { ...place, workspace: "w2" }, sealed)).toBeUndefined();
  expect(openSessionId(key, { ...place, server: "s2" }, sealed)).toBeUndefined();
  expect(openSessionId(key, { ...place, owner: "bob" }, sealed)).toBeUndefined();
  expect(openSessionId(randomBytes(32), place, sealed)).toBeUndefined();
});

it("openSessionId refuses an id if characters move from one field to the next", () => {
  fc.assert(
    fc.property(
      fc.tuple(fc.string(), fc.string(), fc.string(), visibleAscii),
      fc.nat(1_000),
      ([workspace, server, owner, id], cut) => {
        // The same text, cut into fields at other places.
        const text = workspace + server + owner;
        const [first, second] = [cut % (text.length + 1), (cut * 7) % (text.length + 1)].toSorted((a, b) => a - b);
        const other = { workspace: text.slice(0, first), server: text.slice(first, second), owner: text.slice(second) };
        const isSame = other.workspace === workspace && other.server === server && other.owner === owner;
        const sealed = sealSessionId(key, { workspace, server, owner }, id);
        expect(openSessionId(key, other, sealed)).toBe(isSame ? id : undefined);
      },
    ),
  );
  const moved = sealSessionId(key, { ...place, owner: "ad" }, "ab");
  expect(openSessionId(key, place, `${moved.slice(0, 43)}.b`)).toBeUndefined();
});

it("openSessionId refuses an id in which one character was changed, added or removed", () => {
  const sealed = sealSessionId(key, place, "upstream-1");
  for (let index = 0; index < sealed.length; index++) {
    const other = sealed[index] === "A" ? "B" : "A";
    for (const changed of [
      sealed.slice(0, index) + other + sealed.slice(index + 1),
      sealed.slice(0, index) + sealed.slice(index + 1),
      sealed.slice(0, index) + other + sealed.slice(index),
    ]) {
      expect(openSessionId(key, place, changed)).toBeUndefined();
    }
  }
});

it.each([
  "",
  ".",
  "upstream",
  `${"A".repeat(43)}.`,
  `${"A".repeat(43)}.a b`,
  `${"é".repeat(43)}.a`,
  `${"A".repeat(43)}.é`,
])("openSessionId refuses the text %j", (text) => {
  expect(openSessionId(key, place, text)).toBeUndefined();
});

it("openSessionId refuses an id that is too long, even if its MAC is right", () => {
  const id = "x".repeat(1_025);
  const mac = createHmac("sha256", key);
  for (const field of ["keyward mcp session", place.workspace, place.server, place.owner, id]) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(field.length);
    mac.update(length).update(field);
  }
  const digest = mac.digest("base64url");
  expect(openSessionId(key, place, `${digest}.${id}`)).toBeUndefined();
});

it.each(["", "a b", "a\nb", "é", "\u0000", "x".repeat(1_025)])(
  "sealSessionId refuses the server's session id %j",
  (id) => {
    expect(() => sealSessionId(key, place, id)).toThrow(
      new McpRefusedError(
        "SESSION_ID_INVALID",
        "The server gave its session an id that is not 1 to 1024 characters of visible ASCII",
      ),
    );
  },
);
