import { expect, it, onTestFinished } from "vitest";
import { startElsewhere } from "./elsewhere.ts";
import { describeWithMoto, findMoto, startMoto } from "./moto.ts";

const servers = await findMoto();

async function answers(endpoint: string): Promise<boolean> {
  try {
    return (await fetch(`${endpoint}/moto-api/data.json`, { signal: AbortSignal.timeout(500) })).ok;
  } catch {
    return false;
  }
}

describeWithMoto(servers, "a moto server for the tests", () => {
  it("the moto server can be killed, restarted on the same port, paused and stopped", async () => {
    const server = await startMoto(servers);
    onTestFinished(() => server.stop());
    await server.kill();
    expect(await answers(server.endpoint)).toBe(false);
    await server.restart();
    expect(await answers(server.endpoint)).toBe(true);
    server.pause();
    expect(await answers(server.endpoint)).toBe(false);
    server.resume();
    await expect.poll(() => answers(server.endpoint), { timeout: 10_000 }).toBe(true);
    server.pause();
    await server.stop();
    expect(await answers(server.endpoint)).toBe(false);
  });

  it("the moto server ends when the process that started it is killed", async () => {
    const { child, said } = await startElsewhere<{ endpoint: string }>("moto-starter.ts");
    expect(await answers(said.endpoint)).toBe(true);
    child.kill("SIGKILL");
    await expect.poll(() => answers(said.endpoint), { timeout: 10_000 }).toBe(false);
  });
});
