import { describe, expect, it } from "vitest";
import { startService } from "./service.ts";

describe("the pages of a list", () => {
  it("contain the same items in total with every limit, after items were removed", async () => {
    const { admin, as } = await startService();
    for (let count = 0; count < 40; count++) {
      await admin.createServer(as.admin, { slug: `server-${count}`, url: "https://example.com" });
    }
    for (let count = 0; count < 40; count++) {
      if (count % 7 < 4) await admin.deleteServer(as.admin, `server-${count}`);
    }
    const all = (await admin.listServers(as.admin, { limit: 100 })).items.map(({ slug }) => slug);
    expect(all).toHaveLength(16);
    for (const limit of [1, 2, 3, 5, 15, 16, 17]) {
      const found: string[] = [];
      for (let cursor: string | undefined, isFirst = true; isFirst || cursor !== undefined; isFirst = false) {
        const page = await admin.listServers(as.admin, { limit, cursor });
        expect(page.items.length).toBeLessThanOrEqual(limit);
        found.push(...page.items.map(({ slug }) => slug));
        cursor = page.next;
      }
      expect(found).toEqual(all);
    }
  });
});
