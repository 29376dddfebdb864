import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";

/** A Redis server on a loopback port. It writes nothing to disk, so that the bench does not measure a disk. */
export interface RedisServer {
  readonly url: string;
  /** Stops the server. Its records are lost. */
  stop(): Promise<void>;
}

const host = "127.0.0.1";
const programs = ["redis-server", "valkey-server"];

/** Returns the program that starts a server, or `undefined` if neither Redis nor Valkey is on the PATH. */
export function findRedisServer(): string | undefined {
  return programs.find((program) => spawnSync(program, ["--version"]).status === 0);
}

/** Starts a server, which stops when this process ends at the latest. */
export async function startRedisServer(program: string): Promise<RedisServer> {
  const port = await freePort();
  const settings = ["--port", String(port), "--bind", host, "--save", "", "--appendonly", "no"];
  const server = spawn(program, settings, { stdio: ["ignore", "pipe", "inherit"] });
  const end = () => server.kill("SIGKILL");
  process.once("exit", end);
  await untilReady(server);
  return {
    url: `redis://${host}:${port}`,
    async stop() {
      process.off("exit", end);
      const ended = once(server, "exit");
      end();
      await ended;
    },
  };
}

async function untilReady(server: ChildProcess): Promise<void> {
  if (server.stdout === null) throw new Error("The server's output is not read");
  // All output is read, because a full pipe would block the server.
  const lines = createInterface(server.stdout);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.once("exit", (code) => reject(new Error(`redis-server ended with ${code} before it was ready`)));
    lines.on("line", (line) => {
      if (line.includes("Ready to accept connections")) resolve();
    });
  });
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, host);
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  if (address === null || typeof address === "string") throw new Error("There is no free port");
  return address.port;
}
