import { Keyring } from "@keyward/core";
import { type Call, type CallFilter, verifyAudit } from "@keyward/secrets";
import { newCallId } from "@keyward/secrets/reader";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { shortenedPath } from "../../src/audit/shortened-path.ts";
import {
  attack,
  entriesOf,
  openedAudit,
  otherWorkspace,
  recordAll,
  recordCalls,
  secretChange,
  temporaryAudit,
  toolCall,
  workspace,
} from "./audit-files.ts";

describe("the audit of calls", () => {
  it("lists the calls of one workspace without its changes, and the call that ended last is the first", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const now = Date.now();
    const stream = toolCall({ at: now - 60_000, durationMs: 60_000, tool: undefined, mcpMethod: undefined });
    const calls = [toolCall({ at: now - 50_000 }), toolCall({ at: now - 40_000, redactions: 2 }), stream];
    await recordCalls(audit, calls);
    await recordAll(audit, [secretChange()]);
    await recordCalls(audit, [toolCall({ workspace: otherWorkspace })]);
    const { items, next } = await audit.calls(workspace, {}, {});
    expect(next).toBeUndefined();
    expect(items).toEqual(calls.toReversed().map((call) => ({ ...call, outcome: "answered" })));
    expect((await audit.changes(workspace, {}, {})).items).toHaveLength(1);
  });

  it("lists each call with its outcome", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const ended = [
      [{ status: 200 }, "answered"],
      [{ status: 304 }, "answered"],
      [{ status: 404 }, "failed"],
      [{ status: 500 }, "failed"],
      [{ status: 503, reason: "AUDIT_UNAVAILABLE" }, "refused"],
      [{ status: 200, reason: "TOKEN_REVOKED" }, "refused"],
      [{ status: undefined, reason: "TOKEN_REVOKED" }, "refused"],
      [{ status: undefined }, "left"],
    ] as const;
    const ids = await recordCalls(
      audit,
      ended.map(([fields]) => toolCall(fields)),
    );
    for (const [index, [, outcome]] of ended.entries()) {
      expect(await audit.call(workspace, ids[index] ?? "")).toMatchObject({ outcome });
    }
    for (const outcome of ["answered", "failed", "refused", "left"] as const) {
      const { items } = await audit.calls(workspace, { outcome }, {});
      const expected = ids.filter((_, index) => ended[index]?.[1] === outcome);
      expect(new Set(items.map(({ callId }) => callId))).toEqual(new Set(expected));
    }
  });

  it("filters by owner, server, tool, token, outcome and time, alone and together", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const calls: Call[] = [];
    for (const owner of ["mia", "noa"]) {
      for (const server of ["github", "linear"]) {
        for (const tool of ["create_issue", undefined]) {
          for (const status of [200, 500]) {
            const caller = { tokenId: `token${owner}`, owner, role: "member", address: undefined } as const;
            calls.push(toolCall({ caller, server, tool, status, at: Date.now() - calls.length * 1_000 }));
          }
        }
      }
    }
    await recordCalls(audit, calls);
    const middle = (calls[7]?.at ?? 0) + 35;
    const filters: CallFilter[] = [{}];
    for (const further of [
      { owner: "mia" },
      { owner: "nobody" },
      { server: "linear" },
      { tool: "create_issue" },
      { token: "tokennoa" },
      { outcome: "failed" },
      { from: middle },
      { until: middle },
    ] as const) {
      filters.push(...filters.map((filter) => ({ ...filter, ...further })));
    }
    for (const filter of filters) {
      const { owner, server, tool, token, outcome, from = 0, until = Number.POSITIVE_INFINITY } = filter;
      const expected = calls.filter(
        (call) =>
          (owner === undefined || call.caller.owner === owner) &&
          (server === undefined || call.server === server) &&
          (tool === undefined || call.tool === tool) &&
          (token === undefined || call.caller.tokenId === token) &&
          (outcome === undefined || call.status === 500) &&
          call.at + call.durationMs >= from &&
          call.at + call.durationMs < until,
      );
      const { items } = await audit.calls(workspace, filter, { limit: 100 });
      expect(
        items.map(({ callId }) => callId),
        JSON.stringify(filter),
      ).toEqual(expected.map(({ callId }) => callId));
    }
  });

  it("returns each call on one page, and refuses the cursor of another workspace", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const ids = await recordCalls(
      audit,
      Array.from({ length: 11 }, () => toolCall()),
    );
    const listed: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await audit.calls(workspace, { server: "github" }, { limit: 3, cursor });
      listed.push(...page.items.map(({ callId }) => callId));
      cursor = page.next;
    } while (cursor !== undefined);
    expect(listed.toSorted()).toEqual(ids.toSorted());
    const { next } = await audit.calls(workspace, {}, { limit: 1 });
    await expect(audit.calls(otherWorkspace, {}, { cursor: next })).rejects.toMatchObject({ code: "FIELD_INVALID" });
  });

  it("finds a call by its id, in its own workspace only", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const call = toolCall();
    await recordCalls(audit, [call, toolCall(), toolCall({ workspace: otherWorkspace })]);
    expect(await audit.call(workspace, call.callId)).toEqual({ ...call, outcome: "answered" });
    for (const id of [newCallId(), "", "../x", "x".repeat(100_000)]) {
      expect(await audit.call(workspace, id)).toBeUndefined();
    }
    expect(await audit.call(otherWorkspace, call.callId)).toBeUndefined();
  });

  it("lists the other calls of a page if an attacker damages a call, and returns the id of its entry", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1") });
    const [damaged = "", whole = ""] = await recordCalls(audit, [toolCall(), toolCall()]);
    attack(path, "UPDATE entries SET entry = zeroblob(100) WHERE sequence = 2");
    const { items, unreadable } = await audit.calls(workspace, {}, {});
    expect(items.map(({ callId }) => callId)).toEqual([whole]);
    expect(unreadable).toEqual([expect.stringMatching(/^[a-z0-9]{12}-2$/)]);
    await expect(audit.call(workspace, damaged)).rejects.toMatchObject({ code: "AUDIT_INVALID" });
  });

  it("records a call with any texts that its caller has sent", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    const hostile = [
      "x".repeat(100_000),
      "\u{d800}",
      `${"x".repeat(127)}\u{1f511}`,
      "\0\n\u202e",
      "",
      "/a".repeat(10_000),
      "../../etc/passwd?token=kwt_abc",
    ];
    const calls = hostile.map((text) =>
      toolCall({
        server: text,
        method: text,
        path: text,
        mcpMethod: text,
        tool: text,
        reason: text,
        caller: { tokenId: "tokenofcalls", owner: "mia", role: "member", address: text },
        status: text.length,
        durationMs: text.length - 0.5,
        requestBytes: Number.NaN,
        answerBytes: -1,
      }),
    );
    const ids = await recordCalls(audit, calls);
    const { items, unreadable } = await audit.calls(workspace, {}, {});
    expect(new Set(items.map(({ callId }) => callId))).toEqual(new Set(ids));
    expect(unreadable).toBeUndefined();
    for (const { server, method, path } of items) {
      expect([server, method]).toEqual(["*", "*"]);
      expect(path).not.toMatch(/[?x]/);
    }
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
    expect((await entriesOf(path, keys)).filter(({ kind }) => kind === "call")).toHaveLength(hostile.length);
    await expect(audit.recordCall(toolCall({ callId: "x" }))).rejects.toMatchObject({ code: "FIELD_INVALID" });
  });

  it("records * instead of the name of an MCP tool or method that contains a token", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1") });
    const token = `kwt_${"w".repeat(12)}_${"i".repeat(12)}_${"S".repeat(49)}`;
    await recordCalls(audit, [toolCall({ tool: `search ${token}`, mcpMethod: token.slice(0, -6) })]);
    expect((await audit.calls(workspace, {}, {})).items).toMatchObject([{ tool: "*", mcpMethod: "*" }]);
  });
});

describe("shortenedPath", () => {
  it.each([
    ["/", "/"],
    ["", ""],
    ["/repos/keyward/issues/17", "/repos/keyward/issues/*"],
    ["/v1/users", "/*/users"],
    ["/users/ana@example.com", "/users/*"],
    ["/a/abcdefghijklmnopqrstuvwx/b", "/a/abcdefghijklmnopqrstuvwx/b"],
    ["/a/abcdefghijklmnopqrstuvwxy/b", "/a/*/b"],
    ["/search?q=secret#part", "/search"],
    ["/a%20b/c;d=e/é/ü", "/*/*/*/*"],
    ["/a//b/", "/a//b/"],
  ])("shortens %s to %s", (path, expected) => {
    expect(shortenedPath(path)).toBe(expected);
  });

  it("keeps a limited number of short segments without digits, and does not change a shortened path", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 400, unit: fc.constantFrom(..."/ab9%?#._-é*") }), (path) => {
        const short = shortenedPath(path);
        expect(short).toMatch(/^(?:[A-Za-z._-]{0,24}|\*)(?:\/(?:[A-Za-z._-]{0,24}|\*))*$/);
        expect(short.split("/").length).toBeLessThanOrEqual(34);
        expect(shortenedPath(short)).toBe(short);
      }),
    );
  });
});
