import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { GatewayProblem } from "../src/problem.ts";
import { pathAt, readTarget } from "../src/relay/target.ts";

function codeOf(target: string): string {
  try {
    readTarget(target);
    return "relayed";
  } catch (error) {
    if (error instanceof GatewayProblem) return error.code;
    throw error;
  }
}

describe("the path of a call", () => {
  it.each([
    "/s/api/../admin",
    "/s/api/a/./b",
    "/s/api/%2e%2e/admin",
    "/s/api/%2E./admin",
    "/s/api/.%2e",
    "/s/api/%252e%252e/admin",
    "/s/api/%25252e%25252e/admin",
    "/s/api/..;/admin",
    "/s/api/a//b",
    "/s/api//evil.example/",
    "/s/api/a%2fb",
    "/s/api/a%2Fb",
    "/s/api/a%5cb",
    "/s/api/a%252fb",
    "/s/api/a\\b",
    "/s/api/a%00",
    "/s/api/a%0d%0aHost:%20evil",
    "/s/api/a%",
    "/s/api/a%zz",
    "/s/api/a#b",
    "/s/api/a b",
    "/s/api/ä",
    "/s/api/a?b#c",
    "/s/api/a?b\\u0000",
  ])("is refused if a server could read it differently: %s", (target) => {
    expect(codeOf(target.replace("\\u0000", "\u0000"))).toBe("PATH_REFUSED");
  });

  it.each([
    "",
    "/",
    "/s",
    "/s/api",
    "/s//mcp",
    "/S/api/mcp",
    "/s/Api/mcp",
    "/s/-api/mcp",
    "/s/a--b/mcp",
    `/s/${"a".repeat(33)}/mcp`,
    "http://127.0.0.1/s/api/mcp",
    "//s/api/mcp",
    "/%73/api/mcp",
    "/x/../s/api/mcp",
    "*",
  ])("is unknown if it is %j", (target) => {
    expect(codeOf(target)).toBe("ROUTE_NOT_FOUND");
  });

  it("is appended unchanged to the path of the server's URL", () => {
    const segment = fc
      .stringMatching(/^(?:[\w~!$&'()*+,;=:@-]|%4[1-9A-F]){1,8}$/)
      .filter((text) => !text.startsWith("."));
    fc.assert(
      fc.property(fc.array(segment, { maxLength: 4 }), fc.constantFrom("", "/base", "/base/"), (segments, base) => {
        const path = `/${segments.join("/")}`;
        const url = new URL(`https://example.com${base}`);
        const at = pathAt(url, "http", readTarget(`/s/api${path}?a=%2F..`));
        expect(at).toBe(`${base.replace(/\/$/, "")}${path}?a=%2F..`);
        expect(new URL(at, url).origin).toBe("https://example.com");
        expect(new URL(at, url).pathname.startsWith(base.replace(/\/$/, ""))).toBe(true);
      }),
    );
  });

  it("can only be /mcp for an MCP server", () => {
    expect(pathAt(new URL("https://example.com/mcp"), "mcp", readTarget("/s/github/mcp"))).toBe("/mcp");
    expect(pathAt(new URL("https://example.com"), "mcp", readTarget("/s/github/mcp"))).toBe("/");
    expect(() => pathAt(new URL("https://example.com/mcp"), "mcp", readTarget("/s/github/mcp/other"))).toThrow(
      /can only be \/mcp/,
    );
  });
});
