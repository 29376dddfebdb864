// The server behind the gateway, in a process of its own. A GET opens a stream of events; everything else is answered with
// 1 KiB of JSON, and with the number at the end of the credential as its ETag. Sends events to the streams in turn. Each event has the time at which it was sent.
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";

const [eventsPerSecond = "1000"] = process.argv.slice(2);
const turnMs = 10;
const streams: ServerResponse[] = [];
const answer = Buffer.from(JSON.stringify({ text: "answer ".repeat(150) }).padEnd(1_024));

const server = createServer((request, response) => {
  if (request.method === "GET") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(": open\n\n");
    streams.push(response);
    response.once("close", () => streams.splice(streams.indexOf(response), 1));
    return;
  }
  request.resume();
  request.once("end", () => {
    const etag = /\d+$/.exec(request.headers.authorization ?? "")?.[0] ?? "";
    response.writeHead(200, { "content-type": "application/json", "content-length": answer.length, etag }).end(answer);
  });
});
server.keepAliveTimeout = 60_000;
let next = 0;
let owed = 0;
const timer = setInterval(() => {
  owed += (Number(eventsPerSecond) * turnMs) / 1_000;
  for (; owed >= 1; owed--) {
    const text = JSON.stringify({ sentNs: String(process.hrtime.bigint()), text: "event ".repeat(25) });
    streams[next++ % streams.length]?.write(`event: message\ndata: ${text}\n\n`);
  }
}, turnMs);
server.listen(0, "127.0.0.1");
await once(server, "listening");
process.once("disconnect", () => {
  clearInterval(timer);
  server.closeAllConnections();
  server.close();
});
const address = server.address();
process.send?.({ url: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/mcp` });
