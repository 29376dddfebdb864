import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startCluster, startRedis, startTlsRedis } from "./redis.ts";

const servers = await findRedisServers();

/** Whether a process runs; one that has ended and was not waited for does not. */
function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describeWithRedis(servers, "a server for the tests", () => {
  it("keeps what it acknowledged through kill -9 and a restart", async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await node.command("SET", "key", "value");
    await node.kill();
    await expect(node.command("PING")).rejects.toThrow();
    await node.restart();
    expect(await node.command("GET", "key")).toBe("value");
    await node.restart();
    expect(await node.command("GET", "key")).toBe("value");
  });

  it("answers nothing while it is paused, and all of it afterwards", async () => {
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

  it("ends with its data when it is stopped, running, paused or killed", async () => {
    for (const end of ["running", "paused", "killed"]) {
      const node = await startRedis(servers);
      const [, directory = ""] = [await node.command("CONFIG", "GET", "dir")].flat().map(String);
      expect(existsSync(directory)).toBe(true);
      if (end === "paused") node.pause();
      if (end === "killed") await node.kill();
      await node.stop();
      expect(existsSync(directory)).toBe(false);
      await expect(node.command("PING")).rejects.toThrow();
    }
  });

  it("ends with its data when the process that started it is killed", async () => {
    const child: ChildProcess = spawn(process.execPath, [fileURLToPath(new URL("starter.ts", import.meta.url))], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    onTestFinished(() => {
      child.kill("SIGKILL");
    });
    if (child.stdout === null) throw new Error("The child has no output");
    const [line] = await once(child.stdout, "data");
    const { pid, directory }: { pid: number; directory: string } = JSON.parse(String(line));
    expect(runs(pid) && existsSync(directory)).toBe(true);
    child.kill("SIGKILL");
    await expect.poll(() => runs(pid) || existsSync(directory), { timeout: 10_000 }).toBe(false);
  });

  it("takes TLS with a password, and neither without the other", async () => {
    const node = await startTlsRedis(servers);
    onTestFinished(() => node.stop());
    expect(await node.command("PING")).toBe("PONG");
    expect(node.url).toMatch(/^rediss:/);
  });

  it("is one of six in a Cluster, of which one can die and come back", async () => {
    const cluster = await startCluster(servers);
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

  it("gives a slot away with its keys", async () => {
    const cluster = await startCluster(servers);
    onTestFinished(() => cluster.stop());
    const slot = 12_182;
    const source = await cluster.primaryOf(slot);
    await source.command("SET", "foo", "bar");
    const target = (await cluster.primaries()).find(({ port }) => port !== source.port);
    if (target === undefined) throw new Error("There is no other primary");
    await cluster.moveSlot(slot, target);
    expect((await cluster.primaryOf(slot)).port).toBe(target.port);
    expect(await target.command("GET", "foo")).toBe("bar");
    await expect(source.command("GET", "foo")).rejects.toThrow("MOVED");
  });
});
