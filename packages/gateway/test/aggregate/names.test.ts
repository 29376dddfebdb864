import { describe, expect, it } from "vitest";
import { mayBeShortened, placeOf, publicName, publicUri, resourceOf } from "../../src/aggregate/names.ts";

describe("the name of a tool for callers", () => {
  it("contains the server and the tool, and is converted back to both", () => {
    expect(publicName({ slug: "github", name: "create_issue" })).toBe("github__create_issue");
    expect(placeOf("github__create_issue")).toEqual({ slug: "github", name: "create_issue" });
  });

  it.each(["linear__create_issue", "__", "_", "a__b__c"])(
    "is converted back to the right server if the tool has the name %s",
    (name) => {
      const shown = publicName({ slug: "evil", name });
      expect(placeOf(shown)).toEqual({ slug: "evil", name });
    },
  );

  it("has at most 64 characters, and differs for names with the same beginning", () => {
    const slug = "s".repeat(32);
    const shown = ["1", "2"].map((end) => publicName({ slug, name: "n".repeat(100) + end }));
    for (const name of shown) expect(name).toHaveLength(64);
    expect(shown[0]).not.toBe(shown[1]);
    expect(publicName({ slug, name: `${"n".repeat(100)}1` })).toBe(shown[0]);
    expect(placeOf(shown[0] ?? "")?.slug).toBe(slug);
  });

  it.each(["späße", "a b", "a\n{}", "☃"])("has only letters, digits, `_`, `.` and `-` for the tool %j", (name) => {
    const shown = publicName({ slug: "github", name });
    expect(shown).toMatch(/^github__[A-Za-z0-9_.-]+_[0-9a-f]{10}$/);
    expect(mayBeShortened(placeOf(shown) ?? { slug: "", name: "" })).toBe(true);
  });

  it.each(["create_issue", "github_x", "__x", "Github__x", "git--hub__x", `${"s".repeat(33)}__x`, ""])(
    "is converted to no server if it is %j",
    (text) => {
      expect(placeOf(text)).toBeUndefined();
    },
  );
});

describe("the URI of a resource for callers", () => {
  it.each(["file:///a/b.txt", "https://example.com/?a=b#c", "test:{id}/{+path}", "keyward+other+file:///a", "no uri"])(
    "is converted back to %s",
    (uri) => {
      expect(resourceOf(publicUri("my-server", uri))).toEqual({ slug: "my-server", uri });
    },
  );

  it.each(["file:///a", "keyward+Server+x", "keyward+server", "keyward++x", ""])(
    "is converted to no server if it is %j",
    (text) => {
      expect(resourceOf(text)).toBeUndefined();
    },
  );
});
