import { execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { copyFile, mkdtemp, readdir, readFile, rm, symlink } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it, onTestFinished, vi } from "vitest";
import { startElsewhere } from "./elsewhere.ts";
import {
  describeWithRedis,
  findRedisServers,
  startCluster,
  startRedis,
  startSentinelGroup,
  startTlsRedis,
} from "./redis.ts";

const servers = await findRedisServers();

/** Returns true if a process listens on a loopback port. */
async function listens(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** Address of a server that another process started. */
interface Started {
  readonly port: number;
  readonly directory: string;
}

/** Returns the path of a program. */
async function whereIs(name: string): Promise<string> {
  const { stdout } = await promisify(execFile)("sh", ["-c", 'command -v "$1"', "sh", name]);
  return stdout.trim();
}

describeWithRedis(servers, "a server for the tests", () => {
  it("the Redis server still has every acknowledged write after kill -9 and a restart", async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await node.command("SET", "key", "value");
    await node.kill();
    await expect(node.command("PING")).rejects.toThrow("Connection is closed");
    await node.restart();
    expect(await node.command("GET", "key")).toBe("value");
    await node.restart();
    expect(await node.command("GET", "key")).toBe("value");
  });

  it("the Redis server answers no request while it is paused, and answers the waiting requests after it resumes", async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    node.pause();
    let answered = false;
    const asked = node.command("PING").then(() => {
      answered = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(answered).toBe(false);
    node.resume();
    await asked;
  });

  it("stop() of the Redis server ends the process and removes its data, even if the process was paused or already killed", async () => {
    for (const end of ["running", "paused", "killed"]) {
      const node = await startRedis(servers);
      const [, directory = ""] = [await node.command("CONFIG", "GET", "dir")].flat().map(String);
      expect(existsSync(directory)).toBe(true);
      if (end === "paused") node.pause();
      if (end === "killed") await node.kill();
      await node.stop();
      expect(existsSync(directory)).toBe(false);
      await expect(node.command("PING")).rejects.toThrow("Connection is closed");
    }
  });

  it("the Redis server exits and its data is removed when the process that started the server is killed", async () => {
    const { child, said } = await startElsewhere<Started>("redis-starter.ts");
    const { port, directory } = said;
    expect((await listens(port)) && existsSync(directory)).toBe(true);
    child.kill("SIGKILL");
    await expect.poll(async () => (await listens(port)) || existsSync(directory), { timeout: 10_000 }).toBe(false);
  });

  it("the Redis server answers a client over TLS and with a password, if the server was started with both", async () => {
    const node = await startTlsRedis(servers);
    onTestFinished(() => node.stop());
    expect(await node.command("PING")).toBe("PONG");
    expect(node.url).toMatch(/^rediss:/);
  });

  it("the Redis server can be killed and started again in a Cluster of six nodes", async () => {
    const cluster = await startCluster(servers, { failover: true });
    onTestFinished(() => cluster.stop());
    const [victim] = await cluster.primaries();
    await victim?.kill();
    await expect
      .poll(async () => (await cluster.primaries()).map(({ port }) => port), { timeout: 15_000 })
      .not.toContain(victim?.port);
    await victim?.restart();
    await cluster.healthy();
    expect(await cluster.primaries()).toHaveLength(3);
  });

  it("the Redis server can move a slot with its records to another node of its Cluster", async () => {
    const cluster = await startCluster(servers);
    onTestFinished(() => cluster.stop());
    const slot = 12_182;
    const source = await cluster.primaryOf(slot);
    await source.command("SET", "foo", "bar");
    const target = (await cluster.primaries()).find(({ port }) => port !== source.port);
    if (target === undefined) throw new Error("The cluster has only one primary");
    await cluster.moveSlot(slot, target);
    expect((await cluster.primaryOf(slot)).port).toBe(target.port);
    expect(await target.command("GET", "foo")).toBe("bar");
    await expect(source.command("GET", "foo")).rejects.toThrow("MOVED");
  });

  it("the Redis server is replaced by its Redis replica when it is killed in a Sentinel group, and is itself a Redis replica after a restart", async () => {
    const group = await startSentinelGroup(servers);
    onTestFinished(() => group.stop());
    const primary = await group.primary();
    expect(primary).toBe(group.nodes[0]);
    await primary?.kill();
    await expect.poll(() => group.primary(), { timeout: 15_000 }).toBe(group.nodes[1]);
    await primary?.restart();
    await group.replicated();
  });
});

// Not every machine that runs the tests has Docker. So a fake docker command checks the command lines and the cleanup.
// The behaviour of Docker itself is not tested.
describeWithRedis(servers, "a server in a container of a fake Docker", () => {
  const unlessDocker = it.skipIf(servers.binary === undefined);

  /** Returns a PATH with Docker, without Redis, and without a way to install Redis. */
  async function withDocker() {
    const folder = await mkdtemp(join(tmpdir(), "keyward-docker-"));
    onTestFinished(async () => {
      for (const left of await containers()) await promisify(execFile)(join(folder, "docker"), ["rm", "--force", left]);
      await rm(folder, { recursive: true, force: true });
    });
    const programs = new Map([["docker", fileURLToPath(new URL("docker-stand-in.sh", import.meta.url))]]);
    for (const name of ["cat", "rm", "setsid", "sh"]) programs.set(name, await whereIs(name));
    for (const [name, path] of programs) {
      // The fake Docker writes its log into its own folder.
      await (name === "docker" ? copyFile(path, join(folder, name)) : symlink(path, join(folder, name)));
    }
    const containers = async () => (await readdir(folder)).filter((name) => name.startsWith("keyward-redis-"));
    const asked = async () => (await readFile(join(folder, "asked"), "utf8")).trim().split("\n");
    return { environment: { PATH: folder, REDIS_SERVER: servers.binary ?? "" }, containers, asked };
  }

  unlessDocker("the server has a name, by which it is killed, restarted, paused and stopped", async () => {
    const { environment, containers, asked } = await withDocker();
    for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    const found = await findRedisServers();
    expect(found).toEqual({ image: "redis:7" });
    const node = await startRedis(found);
    onTestFinished(() => node.stop());
    const [, directory] = [await node.command("CONFIG", "GET", "dir")].flat().map(String);
    const [name = ""] = await containers();
    await node.command("SET", "key", "value");
    await node.kill();
    // The port is closed a moment after the signal.
    await expect.poll(async () => [await containers(), await listens(node.port)]).toEqual([[], false]);
    await node.restart();
    expect(await node.command("GET", "key")).toBe("value");
    node.pause();
    node.resume();
    expect(await node.command("GET", "key")).toBe("value");
    node.pause();
    await node.stop();
    await expect
      .poll(async () => [await containers(), await listens(node.port), existsSync(directory ?? "")])
      .toEqual([[], false, false]);
    const { uid, gid } = userInfo();
    const run = `run --name ${name} --init --network host --user ${uid}:${gid} --volume ${directory}:${directory} redis:7 redis-server`;
    expect((await asked()).map((line) => line.replace(/ --appendonly .*/, ""))).toEqual([
      "run --rm redis:7 redis-server --version",
      run,
      `rm --force ${name}`,
      run,
      `pause ${name}`,
      `unpause ${name}`,
      `pause ${name}`,
      `rm --force ${name}`,
    ]);
  });

  unlessDocker(
    "the server exits and its data is removed when the process that started the server is killed",
    async () => {
      const { environment, containers } = await withDocker();
      const { child, said } = await startElsewhere<Started>("redis-starter.ts", environment);
      const { port, directory } = said;
      expect([await containers(), await listens(port)]).toMatchObject([{ length: 1 }, true]);
      child.kill("SIGKILL");
      await expect.poll(async () => (await listens(port)) || existsSync(directory), { timeout: 10_000 }).toBe(false);
      expect(await containers()).toEqual([]);
    },
  );
});
