import { connect } from "node:net";
import { expect, it, onTestFinished } from "vitest";
import { startHttpListener } from "../src/index.ts";

it("a listener still answers requests after a handler has left the body of a request unread", async () => {
  const failures: unknown[] = [];
  const note = (error: unknown) => failures.push(error);
  process.on("uncaughtExceptionMonitor", note);
  const listener = await startHttpListener({
    name: "test",
    host: "127.0.0.1",
    port: 0,
    handle: async (request, response) => {
      // Leaving the loop destroys the request.
      if (request.method === "POST") for await (const _ of request) break;
      response.end("answered");
    },
    brokenAnswer: () => ({ contentType: "text/plain", body: "" }),
  });
  onTestFinished(async () => {
    process.off("uncaughtExceptionMonitor", note);
    await listener.close();
  });
  const socket = connect(Number(new URL(listener.url).port), "127.0.0.1");
  socket.on("error", () => {}).resume();
  socket.write("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc");
  await new Promise((resolve) => socket.once("close", resolve));
  expect(await (await fetch(listener.url)).text()).toBe("answered");
  expect(failures).toEqual([]);
});
