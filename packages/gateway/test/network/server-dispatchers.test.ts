import type { ServerResponse } from "node:http";
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, it, onTestFinished } from "vitest";
import { type DialledServer, NetworkError, parseAllowedAddress, ServerDispatchers } from "../../src/network/index.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

function dispatchers(limits: ConstructorParameters<typeof ServerDispatchers>[0] = {}): ServerDispatchers {
  const made = new ServerDispatchers(limits);
  onTestFinished(() => made.destroy(new Error("The test is over")));
  return made;
}

function server(key: string, { port }: Upstream, exceptions: readonly string[] = ["127.0.0.1"]): DialledServer {
  const allowed = exceptions.map((address) => parseAllowedAddress(`${address}:${port}`));
  return { key, origin: `http://127.0.0.1:${port}`, allowed };
}

/** Calls a server. Resolves with the body of the answer, when undici has put the connection back. */
async function call(made: ServerDispatchers, to: DialledServer, onStart = () => {}): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const pieces: Buffer[] = [];
  made.dispatch(
    to,
    { path: "/", method: "GET" },
    {
      onRequestStart() {},
      onResponseStart: onStart,
      onResponseData: (_, piece) => {
        pieces.push(piece);
      },
      onResponseEnd: () => resolve(Buffer.concat(pieces).toString()),
      onResponseError: (_, error) => reject(error),
    },
  );
  const body = await promise;
  await nextTurn();
  return body;
}

/** An upstream whose answers end when the test ends them. */
async function startSlowUpstream() {
  const open: ServerResponse[] = [];
  const upstream = await startUpstream({
    answer: (_, response) => {
      response.write("begun ");
      open.push(response);
    },
  });
  return { upstream, open };
}

it("reuses the connection of a server, but not for another server with the same origin", async () => {
  const upstream = await startUpstream();
  const made = dispatchers();
  await call(made, server("w/a", upstream));
  await call(made, server("w/a", upstream));
  expect(upstream.connections).toBe(1);
  await call(made, server("w/b", upstream));
  expect(upstream.connections).toBe(2);
  await expect(call(made, server("w/c", upstream, []))).rejects.toThrow(NetworkError);
  await expect(call(made, server("w/c", upstream, ["127.0.0.2"]))).rejects.toThrow(NetworkError);
  expect(upstream.connections).toBe(2);
});

it("refuses the next call of a server whose exception was removed, although a connection is open", async () => {
  const { upstream, open } = await startSlowUpstream();
  const made = dispatchers();
  const begun = Promise.withResolvers<void>();
  const running = call(made, server("w/a", upstream), begun.resolve);
  await begun.promise;
  await expect(call(made, server("w/a", upstream, []))).rejects.toThrow(NetworkError);
  // The call that was in progress ends as its server ends it.
  open[0]?.end("and ended");
  expect(await running).toBe("begun and ended");
});

it("opens new connections after a change of the URL", async () => {
  const [first, second] = [await startUpstream(), await startUpstream()];
  const made = dispatchers();
  const allowed = [first, second].flatMap((upstream) => server("w/a", upstream).allowed);
  await call(made, { ...server("w/a", first), allowed });
  await call(made, { ...server("w/a", second), allowed });
  expect([first.connections, second.connections]).toEqual([1, 1]);
});

it("closes the connections of the server that was called longest ago when there are too many servers", async () => {
  const upstream = await startUpstream();
  const made = dispatchers({ maxServers: 2 });
  for (const key of ["w/a", "w/b", "w/a", "w/c", "w/a"]) await call(made, server(key, upstream));
  expect(upstream.connections).toBe(3);
  await call(made, server("w/b", upstream));
  expect(upstream.connections).toBe(4);
});

it("close() waits for the calls in progress, and refuses new ones", async () => {
  const { upstream, open } = await startSlowUpstream();
  const made = dispatchers();
  const begun = Promise.withResolvers<void>();
  const running = call(made, server("w/a", upstream), begun.resolve);
  await begun.promise;
  const closed = made.close();
  await expect(call(made, server("w/a", upstream))).rejects.toThrow("The dispatchers are closed");
  open[0]?.end("and ended");
  expect(await running).toBe("begun and ended");
  await closed;
});

it("destroy() ends the calls in progress, even on connections that new calls no longer use", async () => {
  const { upstream } = await startSlowUpstream();
  const made = dispatchers();
  const begun = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
  const calls = [
    call(made, server("w/a", upstream), begun[0].resolve),
    call(made, server("w/a", upstream, ["127.0.0.0/8"]), begun[1].resolve),
  ].map((running) => running.catch((error: unknown) => error));
  await Promise.all(begun.map(({ promise }) => promise));
  const closing = made.close();
  const reason = new Error("The gateway ends");
  await made.destroy(reason);
  expect(await Promise.all(calls)).toEqual([reason, reason]);
  await closing;
});
