import { inspect } from "node:util";
import { requireUrl } from "@keyward/core";
import { expect, it } from "vitest";

const secret = "c0ffee-secret";
const rules = { protocols: ["http:", "https:"], form: "https://vault.example.com:8200" };
const addressOnly = { ...rules, addressOnly: true };

it.each([
  ["https://vault.example.com:8200", addressOnly],
  ["http://[::1]:8200/behind/a/proxy", addressOnly],
  [new URL("https://vault.example.com"), addressOnly],
  [`https://user:${secret}@vault.example.com/?a=b`, rules],
])("requireUrl accepts %s", (given, accepted) => {
  expect(requireUrl("The address", given, accepted).href).toBe(new URL(given).href);
});

it.each([
  [undefined, addressOnly, "is not a valid URL"],
  [`"https://vault.example.com"`, addressOnly, "is not a valid URL"],
  [secret, addressOnly, "is not a valid URL"],
  [`ftp://${secret}`, addressOnly, "does not begin with http: or https:"],
  [
    `https://user:${secret}@vault.example.com`,
    addressOnly,
    "must be only the address of a server, but has a user, a password, a query or a fragment",
  ],
  [
    `https://${secret}@vault.example.com`,
    addressOnly,
    "must be only the address of a server, but has a user, a password, a query or a fragment",
  ],
  [
    `https://vault.example.com/?token=${secret}`,
    addressOnly,
    "must be only the address of a server, but has a user, a password, a query or a fragment",
  ],
  [
    `https://vault.example.com/#${secret}`,
    addressOnly,
    "must be only the address of a server, but has a user, a password, a query or a fragment",
  ],
  [`https://user:1/${secret}@vault.example.com`, rules, "contains a user or a password that is not percent-encoded"],
])("requireUrl refuses %s, and its error contains no part of this URL", (given, broken, problem) => {
  const refused = () => requireUrl("The address", given, broken);
  expect(refused).toThrow(expect.objectContaining({ code: "VALUE_INVALID", message: `The address ${problem}` }));
  try {
    refused();
  } catch (error) {
    expect(inspect(error, { depth: 10 })).not.toContain(secret);
  }
});
