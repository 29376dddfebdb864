import { expect, it, onTestFinished } from "vitest";
import { startElsewhere } from "./elsewhere.ts";
import { describeWithVault, findVaultServers, startVault, type VaultSettings } from "./openbao.ts";

const servers = await findVaultServers();

async function answers(address: string): Promise<boolean> {
  try {
    return (await fetch(`${address}/v1/sys/seal-status`, { signal: AbortSignal.timeout(500) })).ok;
  } catch {
    return false;
  }
}

async function started(settings: VaultSettings = {}) {
  const server = await startVault(servers, settings);
  onTestFinished(() => server.stop());
  return server;
}

describeWithVault(servers, "a Vault for the tests", () => {
  it("the Vault server keeps its data after kill -9 and a restart, and is sealed until it is unsealed", async () => {
    const server = await started({ storage: "files" });
    await server.request("POST", "sys/mounts/kv", { type: "kv", options: { version: "2" } });
    await server.request("POST", "kv/data/secret", { data: { a: "1" } });
    await server.kill();
    expect(await answers(server.address)).toBe(false);
    await server.restart();
    await expect(server.request("GET", "kv/data/secret")).rejects.toThrow("sealed");
    await server.unseal();
    expect((await server.request("GET", "kv/data/secret")).data).toMatchObject({ data: { a: "1" } });
  });

  it("the Vault server can be sealed, unsealed, paused and stopped if it stores its data in memory", async () => {
    const server = await started();
    await server.seal();
    await expect(server.request("GET", "sys/mounts")).rejects.toThrow("sealed");
    await server.unseal();
    await server.request("GET", "sys/mounts");
    server.pause();
    // The process stops a moment after the signal.
    await expect.poll(() => answers(server.address), { timeout: 10_000 }).toBe(false);
    server.resume();
    await expect.poll(() => answers(server.address), { timeout: 10_000 }).toBe(true);
    server.pause();
    await server.stop();
    expect(await answers(server.address)).toBe(false);
  });

  it("the Vault server serves TLS with a certificate that only its own clients trust", async () => {
    const server = await started({ tls: true });
    expect(server.address).toMatch(/^https:/);
    expect((await server.request("GET", "sys/health"))["sealed"]).toBe(false);
    expect(await answers(server.address)).toBe(false);
  });

  it("the Vault server ends when the process that started it is killed", async () => {
    const { child, said } = await startElsewhere<{ address: string }>("openbao-starter.ts");
    expect(await answers(said.address)).toBe(true);
    child.kill("SIGKILL");
    await expect.poll(() => answers(said.address), { timeout: 10_000 }).toBe(false);
  });
});
