import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { requireChangeFields } from "../src/audit/audit-entry.ts";
import { heldBackFromAnswers } from "../src/header-rules.ts";
import { serverRecord } from "../src/records/server-record.ts";
import { startService } from "./service.ts";

const url = "https://api.example.com";
const many = (count: number) => Array.from({ length: count }, (_, index) => `x-${index}`);

/** The headers that the page for callers says to be refused, with `*` for any rest. */
const page = readFileSync(new URL("../../../docs/calls.md", import.meta.url), "utf8");
const [, table = ""] = page.split("A list must not contain one of these headers");
const heldBack = [...(table.split("\n## ")[0] ?? "").matchAll(/^\| (`.*?) \|/gm)]
  .flatMap(([, cell = ""]) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name))
  .filter((name) => name !== "X-Request-Id");

describe("the headers of a server's settings", () => {
  it("are stored once each, in lower case, and are part of the server and of the grant of a call", async () => {
    const { admin, as, reader, tokens } = await startService();
    const headers = {
      forwardHeaders: ["X-GitHub-Api-Version", "Idempotency-Key", "idempotency-key"],
      relayHeaders: ["X-RateLimit-Remaining"],
    };
    const stored = {
      forwardHeaders: ["x-github-api-version", "idempotency-key"],
      relayHeaders: ["x-ratelimit-remaining"],
    };
    expect(await admin.createServer(as.admin, { slug: "api", url, ...headers })).toMatchObject(stored);
    expect(await admin.getServer(as.admin, "api")).toMatchObject(stored);
    expect((await reader.forCall(tokens.member, "api")).server).toMatchObject(stored);
  });

  it("change only if a change contains a list, which replaces the whole former list", async () => {
    const { admin, as } = await startService();
    const none = { forwardHeaders: [], relayHeaders: [] };
    expect(await admin.createServer(as.admin, { slug: "api", url })).toMatchObject(none);
    await admin.updateServer(as.admin, "api", { forwardHeaders: ["x-a", "x-b"], relayHeaders: ["x-c"] });
    await admin.updateServer(as.admin, "api", { forwardHeaders: ["x-d"] });
    expect(await admin.updateServer(as.admin, "api", { kind: "http" })).toMatchObject({
      forwardHeaders: ["x-d"],
      relayHeaders: ["x-c"],
    });
    expect(await admin.updateServer(as.admin, "api", none)).toMatchObject(none);
  });

  it("are recorded with the change, even if the lists are the longest possible", async () => {
    const { admin, as, audit } = await startService();
    await admin.createServer(as.admin, { slug: "api", url, forwardHeaders: ["x-a", "X-B"] });
    expect(audit.kept.at(-1)?.detail).toBe(`mcp ${url}, forwardHeaders x-a x-b`);
    await admin.updateServer(as.admin, "api", { forwardHeaders: [], relayHeaders: ["x-c"] });
    expect(audit.kept.at(-1)?.detail).toBe("forwardHeaders none, relayHeaders x-c");
    const longest = many(20).map((name) => name.padEnd(128, "x"));
    const path = "/x".repeat(1_000);
    await admin.updateServer(as.admin, "api", { url: url + path, forwardHeaders: longest, relayHeaders: longest });
    const [last] = audit.kept.slice(-1);
    expect(last !== undefined && requireChangeFields(last).detail).toContain(longest.join(" "));
  });

  it.each([
    ["more than 20 names", many(21)],
    ["an empty name", [""]],
    ["a name with a space", ["x a"]],
    ["a name with the end of a line", ["x-a\r\nhost"]],
    ["a name of 129 characters", ["x".repeat(129)]],
    ["a name outside ASCII", ["x-é"]],
    ["a pattern", ["x-*"]],
  ])("cannot be %s", async (_, names) => {
    const { admin, as } = await startService();
    await admin.createServer(as.admin, { slug: "api", url, forwardHeaders: many(20), relayHeaders: many(20) });
    for (const field of ["forwardHeaders", "relayHeaders"]) {
      const refused = admin.updateServer(as.admin, "api", { [field]: names });
      await expect(refused).rejects.toMatchObject({ code: "FIELD_INVALID", message: expect.stringContaining(field) });
    }
  });

  it("cannot be any of the refused headers, which the documentation lists completely", () => {
    const listed = [...heldBack, "X-Request-Id"].map((name) => name.toLowerCase());
    expect(listed.sort()).toEqual([...heldBackFromAnswers].sort());
  });

  const spellings = heldBack.map((name) => name.replace("*", "any"));
  it.each([...spellings, "X_Real_IP", "X.Forwarded.For", "CONTENT_LENGTH"])("cannot have %s", async (name) => {
    const { admin, as } = await startService();
    for (const field of ["forwardHeaders", "relayHeaders"]) {
      const refused = admin.createServer(as.admin, { slug: "api", url, [field]: ["x-a", name] });
      await expect(refused).rejects.toMatchObject({ code: "FIELD_INVALID", message: expect.stringContaining(field) });
    }
    expect((await admin.listServers(as.admin)).items).toEqual([]);
  });

  it("may include x-request-id for the server, but not for the caller", async () => {
    const { admin, as } = await startService();
    await admin.createServer(as.admin, { slug: "api", url, forwardHeaders: ["x-request-id"] });
    const refused = admin.updateServer(as.admin, "api", { relayHeaders: ["x-request-id"] });
    await expect(refused).rejects.toMatchObject({ code: "FIELD_INVALID" });
  });

  it("never let a caller send a header that a secret is sent in, in any spelling of its name", async () => {
    const { admin, as, reader, tokens } = await startService();
    const forwardHeaders = ["x-api-key", "x_api_key", "x-api-keys"];
    await admin.createServer(as.admin, { slug: "api", url, forwardHeaders });
    const rule = { kind: "header", header: "X-Api-Key" } as const;
    await admin.setSecret(as.admin, "api", { name: "KEY", value: "test-0123456789abcdef", rule });
    const forwarded = async () => (await reader.forCall(tokens.member, "api")).server.forwardHeaders;
    expect(await forwarded()).toEqual(["x-api-keys"]);
    await admin.deleteSecret(as.admin, "api", "KEY");
    expect(await forwarded()).toEqual(forwardHeaders);
  });

  it("are empty for a server whose record was stored before these settings existed", () => {
    const former = {
      ...{ v: 1, id: "a1b2c3d4e5f6", page: 0, slug: "api", url, kind: "http", disabled: false, deleting: false },
      ...{ revision: 3, created: 1, createdBy: "Ada", values: 0, secrets: [], pending: [], garbage: [] },
    };
    expect(serverRecord.schema.parse(former)).toMatchObject({ forwardHeaders: [], relayHeaders: [] });
  });
});
