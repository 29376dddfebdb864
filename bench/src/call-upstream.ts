// The server that the calls of the bench go to, in a process of its own. Sends its port to the process that has forked it.
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { callAnswers } from "./call-answers.ts";
import { answerMcp, toolServerPath } from "./tool-server.ts";

const server = createServer((request, response) => {
  if (request.url?.startsWith(toolServerPath) === true) return void answerMcp(request, response);
  const answer = callAnswers.find(({ name }) => request.url === `/${name}`);
  request.resume();
  request.once("end", () => {
    if (answer === undefined) return void response.writeHead(404).end();
    const [first, ...others] = answer.parts;
    const isWhole = others.length === 0;
    response.writeHead(200, {
      "content-type": answer.contentType,
      ...(isWhole ? { "content-length": String(first?.length) } : {}),
    });
    if (isWhole) response.end(first);
    else sendEvents(response, answer.parts, 0);
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1");
await once(server, "listening");
const address = server.address();
process.on("disconnect", () => process.exit());
process.send?.({ port: typeof address === "object" ? address?.port : undefined });

/** Sends one event in each turn of the event loop, so that the events arrive one after the other. */
function sendEvents(response: ServerResponse, parts: readonly Buffer[], next: number): void {
  const part = parts[next];
  if (part === undefined) return void response.end();
  response.write(part);
  setImmediate(() => sendEvents(response, parts, next + 1));
}
