import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { stat } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import { join } from "node:path";
import { AdminClient } from "@keyward/admin/client";
import { describe, expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, type RunningGateway, type Service, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

const value = "test-value-0123456789abcdefghijklmnop";

/** Starts a service with the server `api`, which answers after some time, and holds the answers to `/held`. */
async function startWithServer() {
  const held: ServerResponse[] = [];
  const authorizations: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    authorizations.push(request.headers.authorization);
    request.resume();
    if (request.url?.startsWith("/held") === true) return void held.push(response);
    setTimeout(() => response.end("ok"), 20);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const folder = await newFolder();
  const service = await copyOfService(folder);
  const allow = ["--allow-address", `127.0.0.1:${port}`];
  const gateway = await startGateway(folder, {}, ...allow);
  const admin = clientOf(gateway, service);
  await admin.createServer({ slug: "api", url: `http://127.0.0.1:${port}`, kind: "http" });
  await admin.setSecret("api", { name: "TOKEN", value, injection: { kind: "bearer" } });
  const tokens: string[] = [];
  for (let count = 0; count < 4; count++) {
    tokens.push((await admin.createToken({ owner: `caller-${count}`, role: "member" })).token);
  }
  return { folder, service, gateway, admin, tokens, held, authorizations, allow };
}

function clientOf({ url }: RunningGateway, { admin }: Service): AdminClient {
  return new AdminClient({ url, token: admin });
}

/** Calls the server again and again until `stop`, at most about 300 times a second. */
function callUntilStopped(gateway: RunningGateway, tokens: readonly string[]) {
  let isStopped = false;
  const [answers, refusals, failures] = [[] as number[], [] as number[], [] as unknown[]];
  const callers = tokens.map(async (token) => {
    while (!isStopped) {
      try {
        const answer = await fetch(`${gateway.callUrl}/s/api/items`, { headers: { authorization: `Bearer ${token}` } });
        await answer.text();
        (answer.status === 200 ? answers : refusals).push(answer.status);
      } catch (error) {
        failures.push(error);
        // A gateway that has ended refuses connections.
        if (isRefusedConnection(error)) return;
      }
    }
  });
  return {
    answers,
    refusals,
    failures,
    stop: async () => {
      isStopped = true;
      await Promise.all(callers);
    },
  };
}

function isRefusedConnection(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  return typeof cause === "object" && cause !== null && "code" in cause && cause.code === "ECONNREFUSED";
}

/** Limits how large a process may make a file, in bytes. */
function limitFiles(processId: number, bytes: string): void {
  execFileSync("prlimit", ["--pid", String(processId), `--fsize=${bytes}:unlimited`]);
}

describe("keyward gateway start", () => {
  it("loses no call on SIGTERM under load, and exits with code 0", { timeout: 120_000 }, async () => {
    const { folder, gateway, tokens, held } = await startWithServer();
    const load = callUntilStopped(gateway, tokens);
    await expect.poll(() => load.answers.length, { timeout: 20_000 }).toBeGreaterThan(100);
    const slow = fetch(`${gateway.callUrl}/s/api/held`, { headers: { authorization: `Bearer ${tokens[0]}` } });
    await expect.poll(() => held.length).toBe(1);
    const stopped = gateway.stop();
    await load.stop();
    held[0]?.end("late");
    expect(await (await slow).text()).toBe("late");
    expect(await stopped).toBe(0);
    expect(load.refusals.filter((status) => status !== 503)).toEqual([]);
    expect(load.failures.filter((error) => !isRefusedConnection(error))).toEqual([]);
    const verified = await keyward(folder, {}, "audit", "verify", "--json");
    expect(verified).toMatchObject({ exitCode: 0 });
    expect(verified.stdout).not.toContain("no closing entry");
  });

  it("works again after it was killed during a call, and the audit contains every answered call and reports the kill", {
    timeout: 120_000,
  }, async () => {
    const { folder, service, gateway, tokens, held, allow, authorizations } = await startWithServer();
    const load = callUntilStopped(gateway, tokens);
    const within = fetch(`${gateway.callUrl}/s/api/held`, { headers: { authorization: `Bearer ${tokens[0]}` } });
    await expect.poll(() => held.length).toBe(1);
    await expect.poll(() => load.answers.length, { timeout: 20_000 }).toBeGreaterThan(50);
    process.kill(gateway.processId, "SIGKILL");
    await expect(within).rejects.toThrow("fetch failed");
    await load.stop();
    const verified = await keyward(folder, {}, "audit", "verify");
    expect(verified.stdout + verified.stderr).toMatch(/no closing entry/);
    const again = await startGateway(folder, {}, ...allow);
    const answer = await fetch(`${again.callUrl}/s/api/items`, { headers: { authorization: `Bearer ${tokens[0]}` } });
    expect([answer.status, await answer.text()]).toEqual([200, "ok"]);
    expect(new Set(authorizations)).toEqual(new Set([`Bearer ${value}`]));
    // Every call that was answered before is recorded: the answer waits for its entry.
    let recorded = 0;
    let cursor: string | undefined;
    do {
      const { items, next } = await clientOf(again, service).listCalls({}, { cursor, limit: 100 });
      recorded += items.filter(({ status }) => status === 200).length;
      cursor = next ?? undefined;
    } while (cursor !== undefined);
    expect(recorded).toBeGreaterThanOrEqual(load.answers.length + 1);
  });

  it.skipIf(process.platform !== "linux")(
    "while the disk is full, refuses calls without calling the server, and reports that it is not ready",
    async () => {
      const { gateway, service, tokens, authorizations } = await startWithServer();
      const call = async () => {
        const answer = await fetch(`${gateway.callUrl}/s/api/items`, {
          headers: { authorization: `Bearer ${tokens[0]}` },
        });
        return [answer.status, /"code":"(\w+)"/.exec(await answer.text())?.[1]];
      };
      const isReady = async () => (await fetch(`${gateway.callUrl}/readyz`)).status === 200;
      expect(await call()).toEqual([200, undefined]);
      // No file may grow. A write beyond is cut and the next one fails, as on a full disk.
      const { size } = await stat(join(service.folder, ".keyward", "audit.db"));
      limitFiles(gateway.processId, String(size));
      await expect.poll(call, { timeout: 40_000 }).toEqual([503, "AUDIT_UNAVAILABLE"]);
      await expect.poll(isReady, { timeout: 40_000 }).toBe(false);
      await expect
        .poll(
          async () => {
            const before = authorizations.length;
            const answers = [await call(), await call(), await call()];
            return { answers: answers.map(([, code]) => code), reached: authorizations.length - before };
          },
          { timeout: 40_000 },
        )
        .toEqual({ answers: Array(3).fill("AUDIT_UNAVAILABLE"), reached: 0 });
      limitFiles(gateway.processId, "unlimited");
      await expect.poll(call, { timeout: 40_000 }).toEqual([200, undefined]);
      await expect.poll(isReady, { timeout: 40_000 }).toBe(true);
      expect(await gateway.stop()).toBe(0);
      expect(await keyward(service.folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
    },
    180_000,
  );

  it("answers every call while values are set and the keys are rotated", { timeout: 180_000 }, async () => {
    const { folder, gateway, admin, tokens } = await startWithServer();
    const load = callUntilStopped(gateway, tokens);
    await expect.poll(() => load.answers.length, { timeout: 20_000 }).toBeGreaterThan(50);
    for (let count = 0; count < 10; count++)
      await admin.setSecret("api", { name: "TOKEN", value: `${value}-${count}` });
    const rotated = await keyward(folder, {}, "rotate", "--new-key", "next", "--grace", "0s", "--json");
    expect(rotated).toMatchObject({ exitCode: 0 });
    expect(JSON.parse(rotated.stdout)).toMatchObject({ rotation: { step: "done", to: "next" } });
    const before = load.answers.length;
    await expect.poll(() => load.answers.length, { timeout: 20_000 }).toBeGreaterThan(before + 50);
    await load.stop();
    expect({ refusals: load.refusals, failures: load.failures }).toEqual({ refusals: [], failures: [] });
    expect(gateway.printed().stderr).not.toContain(value);
  });
});
