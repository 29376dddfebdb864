import type { CallSecret } from "@keyward/secrets/reader";
import { GatewayProblem } from "../problem.ts";

/** Returns the headers that put the values of a server into a request, as pairs of name and value. */
export function injectedHeaders(secrets: readonly CallSecret[]): readonly (readonly [name: string, value: string])[] {
  return secrets.map((secret) => {
    const [name, text] = headerOf(secret);
    // The bytes of UTF-8: a header of HTTP has bytes, and undici writes one byte for each character.
    const value = Buffer.from(text, "utf8").toString("latin1");
    if (/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) return [name, value];
    throw new GatewayProblem(
      "SECRET_UNUSABLE",
      "A value of the server has a control character, which no header may have",
      {
        hint: "An admin of the workspace sets the secret again, without control characters.",
      },
    );
  });
}

function headerOf({ rule, value }: CallSecret): readonly [name: string, text: string] {
  const text = value.reveal();
  switch (rule.kind) {
    case "header":
      return [rule.header, text];
    case "bearer":
      return ["authorization", `Bearer ${text}`];
    case "basic":
      return ["authorization", `Basic ${Buffer.from(text, "utf8").toString("base64")}`];
    case "template":
      return [rule.header, rule.template.split("{value}").join(text)];
  }
}
