import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";

/** A fault that the proxy causes for a call, so that the client does not receive the normal answer. */
export type Fault =
  /** The client receives this error of AWS. The call is not executed. */
  | {
      readonly kind: "error";
      readonly status: number;
      readonly name: string;
      readonly message?: string;
      /** How long the client should wait before it repeats the call, in seconds. */
      readonly retryAfterSeconds?: number;
    }
  /** The call is executed, but the client does not receive the answer. */
  | { readonly kind: "lost" }
  /** The connection is closed. The call is not executed. */
  | { readonly kind: "reset" }
  /** The client never receives an answer. */
  | { readonly kind: "silence" };

/** A proxy between the SDK and a server, which can inject faults. */
export interface AwsProxy {
  readonly endpoint: string;
  /** Names of the operations called so far, such as `GetSecretValue`. */
  readonly calls: string[];
  /** Returns the fault for a call; `undefined` forwards the call to the server. */
  fault: (operation: string) => Fault | undefined | Promise<Fault | undefined>;
  close(): Promise<void>;
}

/** Starts a proxy that forwards every call until its `fault` is replaced. */
export async function startProxy(target: string): Promise<AwsProxy> {
  const calls: string[] = [];
  const server = createServer((incoming, outgoing) => {
    answer(incoming, outgoing).catch(() => incoming.socket.destroy());
  });

  async function answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const operation = String(incoming.headers["x-amz-target"]).split(".").at(-1) ?? "";
    calls.push(operation);
    const fault = await proxy.fault(operation);
    switch (fault?.kind) {
      case "error": {
        outgoing.setHeader("content-type", "application/x-amz-json-1.1");
        if (fault.retryAfterSeconds !== undefined) outgoing.setHeader("retry-after", fault.retryAfterSeconds);
        outgoing.writeHead(fault.status);
        outgoing.end(JSON.stringify({ __type: fault.name, message: fault.message ?? fault.name }));
        return;
      }
      case "reset":
        incoming.socket.destroy();
        return;
      case "silence":
        return;
      case "lost":
      case undefined: {
        const { method = "POST", url = "/", headers } = incoming;
        const upstream = request(target, { method, path: url, headers });
        upstream.on("error", () => incoming.socket.destroy());
        upstream.end(Buffer.concat(chunks));
        const [response]: IncomingMessage[] = await once(upstream, "response");
        if (response === undefined) throw new Error("The server did not answer");
        if (fault !== undefined) {
          response.resume();
          await once(response, "end");
          incoming.socket.destroy();
          return;
        }
        outgoing.writeHead(response.statusCode ?? 500, response.headers);
        response.pipe(outgoing);
      }
    }
  }

  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("No port was given");
  const proxy: AwsProxy = {
    endpoint: `http://127.0.0.1:${address.port}`,
    calls,
    fault: () => undefined,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return proxy;
}
