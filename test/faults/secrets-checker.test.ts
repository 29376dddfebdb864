import { describe, expect, it } from "vitest";
import type { CallEvent, ServiceEvent } from "./secrets-events.ts";
import { problemsIn } from "./secrets-history.ts";

const slug = "github";
const token = "kwt_of_a_member";
const url = "https://one.example.com/mcp";
const created: readonly ServiceEvent[] = [
  { kind: "create server", slug, url, began: 0, ended: 10 },
  { kind: "create token", token, began: 0, ended: 10 },
];
const set = (value: string, began: number, ended?: number): ServiceEvent => ({
  ...{ kind: "set", slug, name: "ONE", value, began },
  ...(ended === undefined ? {} : { ended }),
});
const call = (began: number, ended: number, outcome: Partial<CallEvent>): ServiceEvent => ({
  ...{ kind: "call", slug, token, began, ended },
  ...(outcome.code === undefined ? { url } : {}),
  ...outcome,
});
const sent = (began: number, ended: number, value?: string) =>
  call(began, ended, { values: value === undefined ? {} : { ONE: value } });

describe("the checker of histories of the secrets service", () => {
  it.each<{ readonly name: string; readonly events: readonly ServiceEvent[] }>([
    {
      name: "the old value while the set of a new value is in progress",
      events: [set("a", 20, 30), set("b", 40, 60), sent(50, 55, "a")],
    },
    {
      name: "the new value while its set is in progress",
      events: [set("a", 20, 30), set("b", 40, 60), sent(45, 50, "b")],
    },
    { name: "a set that a kill interrupted, and that took effect", events: [set("a", 20), sent(50, 55, "a")] },
    { name: "a set that a kill interrupted, and that took no effect", events: [set("a", 20), sent(50, 55)] },
    {
      name: "a call that sends no value after the secret was deleted",
      events: [set("a", 20, 30), { kind: "delete secret", slug, name: "ONE", began: 40, ended: 50 }, sent(60, 70)],
    },
    {
      name: "a call that is refused after the URL got another origin",
      events: [
        set("a", 20, 30),
        { kind: "change URL", slug, url: "https://two.example.com", began: 40, ended: 50 },
        call(60, 70, { code: "SECRET_UNUSABLE" }),
      ],
    },
    {
      name: "a call that is refused after its token was revoked",
      events: [{ kind: "revoke token", token, began: 20, ended: 30 }, call(40, 50, { code: "TOKEN_REFUSED" })],
    },
  ])("accepts $name", ({ events }) => {
    expect(problemsIn([...created, ...events])).toEqual([]);
  });

  it.each<{ readonly name: string; readonly problem: string; readonly events: readonly ServiceEvent[] }>([
    {
      name: "a value that was superseded before the call",
      problem: "superseded or revived",
      events: [set("a", 20, 30), set("b", 40, 50), sent(60, 70, "a")],
    },
    {
      name: "a deleted value",
      problem: "superseded or revived",
      events: [set("a", 20, 30), { kind: "delete all secrets", slug, began: 40, ended: 50 }, sent(60, 70, "a")],
    },
    {
      name: "the value of a server that was deleted and created again",
      problem: "superseded or revived",
      events: [
        set("a", 20, 30),
        { kind: "delete server", slug, began: 40, ended: 50 },
        { kind: "create server", slug, url, began: 60, ended: 70 },
        sent(80, 90, "a"),
      ],
    },
    { name: "a value that no admin has set", problem: "superseded or revived", events: [sent(20, 30, "a")] },
    { name: "an acknowledged set that has no effect", problem: "was lost", events: [set("a", 20, 30), sent(40, 50)] },
    {
      name: "the value of a set that was refused",
      problem: "superseded or revived",
      events: [{ ...set("a", 20, 30), code: "REVISION_CHANGED" }, sent(40, 50, "a")],
    },
    {
      name: "a token that was revoked before the call",
      problem: "a token was accepted",
      events: [{ kind: "revoke token", token, began: 20, ended: 30 }, sent(40, 50)],
    },
    {
      name: "a valid token that is refused",
      problem: "a valid token",
      events: [call(20, 30, { code: "TOKEN_REFUSED" })],
    },
    {
      name: "an existing server that a call does not find",
      problem: "a server was missing",
      events: [call(20, 30, { code: "SERVER_NOT_FOUND" })],
    },
    {
      name: "a call that would go to a former URL",
      problem: "a URL that the server did not have",
      events: [{ kind: "change URL", slug, url: "https://one.example.com/other", began: 20, ended: 30 }, sent(40, 50)],
    },
    {
      name: "a value at an origin for which it was not set",
      problem: "an origin for which it was not set",
      events: [
        set("a", 20, 30),
        { kind: "change URL", slug, url: "https://two.example.com", began: 40, ended: 50 },
        call(60, 70, { url: "https://two.example.com", values: { ONE: "a" } }),
      ],
    },
    {
      name: "a call that is refused although the URL was not changed",
      problem: "a call was refused",
      events: [set("a", 20, 30), call(40, 50, { code: "SECRET_UNUSABLE" })],
    },
    {
      name: "a call that fails with another code",
      problem: "a call failed",
      events: [call(20, 30, { code: "RECORD_INVALID" })],
    },
    {
      name: "an operation that fails with an unexpected code",
      problem: "an operation failed",
      events: [{ ...set("a", 20, 30), code: "SERVICE_BUSY" }],
    },
  ])("reports $name", ({ events, problem }) => {
    const problems = problemsIn([...created, ...events]);
    expect(problems.join("\n")).toContain(problem);
  });
});
