import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { onTestFinished } from "vitest";
import { copyOfService, newFolder, startGateway } from "./gateway-process.ts";
import { startKeyward } from "./keyward-process.ts";

/**
 * Starts a service behind a proxy that calls `end` before a request whose path or body has the text `at`. Returns the folder,
 * and a function that begins a command as an admin.
 */
export async function startBrokenService(at: string, end: (request: IncomingMessage) => Promise<void>) {
  const folder = await newFolder();
  const { admin } = await copyOfService(folder);
  const gateway = await startGateway(folder);
  const proxy = createServer(async (request, response) => {
    const body = await text(request);
    if (`${request.url} ${body}`.includes(at)) await end(request);
    const { authorization = "", "content-type": type = "application/json" } = request.headers;
    const { method = "GET", url = "" } = request;
    const answer = await fetch(gateway.url + url, {
      method,
      headers: { authorization, "content-type": type },
      ...(body === "" ? {} : { body }),
    });
    response.writeHead(answer.status, { "content-type": answer.headers.get("content-type") ?? "" });
    response.end(await answer.text());
  }).listen(0, "127.0.0.1");
  onTestFinished(async () => {
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });
  await once(proxy, "listening");
  const address = proxy.address();
  const env = {
    KEYWARD_URL: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`,
    KEYWARD_TOKEN: admin,
  };
  const begin = (...commandLine: readonly string[]) => {
    const child = startKeyward(folder, env, ...commandLine);
    onTestFinished(() => void child.kill("SIGKILL"));
    const printed = { stdout: "", stderr: "" };
    child.stdout.on("data", (data) => {
      printed.stdout += String(data);
    });
    child.stderr.on("data", (data) => {
      printed.stderr += String(data);
    });
    const ended = once(child, "close").then(([exitCode]: readonly unknown[]) => ({ exitCode, ...printed }));
    return { child, printed, ended };
  };
  return { folder, begin };
}
