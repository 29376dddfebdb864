import { escape as escapeQuery } from "node:querystring";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { Needles } from "../../src/redaction/needles.ts";
import { redactText } from "../../src/redaction/redactor.ts";
import { fixtures, fixtureValue } from "./fixtures.ts";

const node = {
  "JSON.stringify": JSON.stringify(fixtureValue).slice(1, -1),
  "JSON.stringify twice": JSON.stringify(JSON.stringify({ a: fixtureValue })).slice(10, -4),
  encodeURIComponent: encodeURIComponent(fixtureValue),
  encodeURI: encodeURI(fixtureValue),
  URLSearchParams: new URLSearchParams({ a: fixtureValue }).toString().slice(2),
  "querystring.escape": escapeQuery(fixtureValue),
  "path of a URL": new URL(`http://host/${encodeURIComponent(fixtureValue)}`).pathname.slice(1),
  "inspect of a list": inspect([fixtureValue]).slice(3, -3),
  hex: Buffer.from(fixtureValue).toString("hex"),
  base64: Buffer.from(fixtureValue).toString("base64"),
  base64url: Buffer.from(fixtureValue).toString("base64url"),
};

const needles = new Needles([{ value: fixtureValue, basic: false }]);

describe.each(Object.entries({ "Node.js": node, ...fixtures }))("a value as %s writes it", (_, forms) => {
  it.each(Object.entries(forms))("is found after %s", (_name, text) => {
    // The last character of base64 may hold a bit of the value.
    const { text: redacted, hits } = redactText(needles, `{"value": "${text}"}`);
    expect(redacted).toMatch(/^\{"value": "REDACTED[A-Za-z0-9+/_-]?=*"\}$/);
    expect(hits).toBe(1);
  });
});
