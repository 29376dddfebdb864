// A bare proxy of node:http and undici without any checks, in a process of its own. Parameter: the origin of the server.
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { type Dispatcher, Pool } from "undici";

const [origin = ""] = process.argv.slice(2);
const pool = new Pool(origin);

const server = createServer((request, response) => {
  const headers: Record<string, string> = {};
  for (const name of ["accept", "content-type", "content-length", "user-agent"]) {
    const value = request.headers[name];
    if (typeof value === "string") headers[name] = value;
  }
  pool.dispatch({ path: request.url ?? "", method: "POST", headers, body: request }, piped(response));
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1");
await once(server, "listening");
const address = server.address();
process.on("disconnect", () => process.exit());
process.on("message", () => process.send?.(process.cpuUsage()));
process.send?.({ url: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}` });

function piped(response: ServerResponse): Dispatcher.DispatchHandler {
  return {
    onRequestStart() {},
    onResponseStart(controller, status, headers) {
      response.on("drain", () => controller.resume());
      for (const name of ["content-type", "content-length"]) {
        const value = headers[name];
        if (value !== undefined) response.setHeader(name, value);
      }
      response.writeHead(status);
    },
    onResponseData(controller, chunk) {
      if (!response.write(chunk)) controller.pause();
    },
    onResponseEnd() {
      response.end();
    },
    onResponseError() {
      response.destroy();
    },
  };
}
