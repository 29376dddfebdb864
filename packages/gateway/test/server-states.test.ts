import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type CalledServer, ServerStates } from "../src/server-states.ts";

const server: CalledServer = { workspace: "w0rkspace001", id: "s3rver000001", revision: 3 };
const changed = { ...server, revision: 4 };
const reason = "The server did not answer in time";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now: 1_000 });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("the state of a server", () => {
  it("is unknown before the first call, in another workspace, and for another server with the same slug", () => {
    const states = new ServerStates();
    const unknown = { status: "unknown", since: undefined, lastSeen: undefined, lastError: undefined };
    expect(states.of(server)).toEqual(unknown);
    states.noteReady(server, "call");
    expect(states.of({ ...server, workspace: "w0rkspace002" })).toEqual(unknown);
    expect(states.of({ ...server, id: "s3rver000002" })).toEqual(unknown);
  });

  it("has the time of the first and of the last call that showed it, and keeps the last error", () => {
    const states = new ServerStates();
    states.noteReady(server, "call");
    vi.setSystemTime(2_000);
    states.noteReady(server, "call");
    expect(states.of(server)).toEqual({ status: "ready", since: 1_000, lastSeen: 2_000, lastError: undefined });
    vi.setSystemTime(3_000);
    states.noteError(server, "failed", "The connection to the server failed", "call");
    vi.setSystemTime(4_000);
    states.noteError(server, "failed", reason, "call");
    const lastError = { at: 4_000, reason };
    expect(states.of(server)).toEqual({ status: "failed", since: 3_000, lastSeen: 4_000, lastError });
    vi.setSystemTime(5_000);
    states.noteReady(server, "call");
    expect(states.of(server)).toEqual({ status: "ready", since: 5_000, lastSeen: 5_000, lastError });
  });

  it("begins again after a change of the server, also with the same status", () => {
    const states = new ServerStates();
    states.noteError(server, "failed", reason, "call");
    vi.setSystemTime(9_000);
    states.noteError(changed, "failed", reason, "call");
    expect(states.of(changed)).toMatchObject({ status: "failed", since: 9_000 });
  });

  it("is unknown after a change of the server, whatever calls with the former settings show", () => {
    const states = new ServerStates();
    states.noteError(server, "refused", reason, "call");
    const unknown = { status: "unknown", since: undefined, lastSeen: undefined, lastError: { at: 1_000, reason } };
    expect(states.of(changed)).toEqual(unknown);
    states.noteReady(changed, "call");
    states.noteError(server, "refused", reason, "call");
    expect(states.of(changed)).toMatchObject({ status: "ready" });
    states.noteError(changed, "refused", reason, "call");
    states.noteReady(server, "call");
    expect(states.of(changed)).toMatchObject({ status: "refused" });
  });
});

describe("a server whose lists cannot be read", () => {
  it("stays failed while the endpoint reads its lists again, although it answers calls", () => {
    const states = new ServerStates();
    states.noteError(server, "failed", reason, "lists");
    for (const now of [61_000, 121_000, 181_000]) {
      vi.setSystemTime(now);
      states.noteReady(server, "endpoint");
      states.noteReady(server, "call");
      states.noteError(server, "failed", reason, "lists");
      expect(states.of(server)).toMatchObject({ status: "failed", since: 1_000, lastSeen: now });
    }
    states.noteReady(server, "lists");
    expect(states.of(server)).toMatchObject({ status: "ready", since: 181_000 });
  });

  it("is ready if it answers a caller when its lists were not read for a while", () => {
    const states = new ServerStates();
    states.noteError(server, "failed", reason, "lists");
    vi.setSystemTime(121_001);
    states.noteReady(server, "endpoint");
    expect(states.of(server)).toMatchObject({ status: "failed" });
    states.noteReady(server, "call");
    expect(states.of(server)).toMatchObject({ status: "ready" });
  });

  it("is ready at once if it answers after a change", () => {
    const states = new ServerStates();
    states.noteError(server, "failed", reason, "lists");
    states.noteReady(changed, "call");
    expect(states.of(changed)).toMatchObject({ status: "ready" });
  });

  it("is ready with the next answer if it could not be reached before", () => {
    const states = new ServerStates();
    states.noteError(server, "failed", "The connection to the server failed", "endpoint");
    states.noteError(server, "failed", reason, "lists");
    states.noteReady(server, "call");
    expect(states.of(server)).toMatchObject({ status: "ready" });
  });
});

it("forgets the servers that were called longest ago", () => {
  const states = new ServerStates({ most: 10 });
  const of = (index: number) => ({ ...server, id: `s${index}` });
  states.noteReady(of(0), "call");
  for (let index = 1; index < 100; index++) {
    states.noteReady(of(index), "call");
    states.noteReady(of(0), "call");
  }
  const kept = Array.from({ length: 100 }, (_, index) => index).filter(
    (index) => states.of(of(index)).status !== "unknown",
  );
  expect(kept.length).toBeLessThanOrEqual(10);
  expect(kept).toEqual(expect.arrayContaining([0, 96, 97, 98, 99]));
});
