import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { onTestFinished } from "vitest";

/** A server on loopback that answers with bytes that no HTTP library would write. */
export interface RawUpstream {
  readonly port: number;
  readonly origin: string;
  /** What has arrived, for each connection. */
  readonly received: readonly string[];
  readonly sockets: readonly Socket[];
}

/** Starts a server that calls `answer` when the head of the first request of a connection has arrived. */
export async function startRawUpstream(answer: (socket: Socket) => void): Promise<RawUpstream> {
  const received: string[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    const index = sockets.push(socket) - 1;
    received.push("");
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      const before = received[index] ?? "";
      received[index] = before + chunk.toString("latin1");
      if (!before.includes("\r\n\r\n") && received[index].includes("\r\n\r\n")) answer(socket);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return { port, origin: `http://127.0.0.1:${port}`, received, sockets };
}

/** Opens a connection to the gateway that ends with the test. */
export async function openConnection(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => {});
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  return socket;
}

/** Resolves when a connection is closed, also by an error. */
export async function closed(socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
}

/** Sends bytes, and returns everything that the gateway answers until it closes the connection. */
export async function exchange(url: string, request: string | Buffer): Promise<string> {
  const socket = await openConnection(url);
  let answer = "";
  socket.on("data", (chunk) => {
    answer += chunk.toString("latin1");
  });
  socket.write(typeof request === "string" ? Buffer.from(request, "latin1") : request);
  await closed(socket);
  return answer;
}

/** Returns the statuses of the answers in what came over a connection. */
export function statusesIn(answer: string): readonly number[] {
  return [...answer.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)].map(([, status]) => Number(status));
}

/** Returns the bytes of a request with a token. Lines end with CR and LF. */
export function requestOf(line: string, token: string, lines: readonly string[] = [], body = ""): string {
  const head = [line, "Host: localhost", `Authorization: Bearer ${token}`, "Connection: close", ...lines];
  return `${head.join("\r\n")}\r\n\r\n${body}`;
}
