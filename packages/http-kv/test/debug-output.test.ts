import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const run = promisify(execFile);
const workspace = fileURLToPath(new URL("../../..", import.meta.url));

it("HttpStore passes no API key and no value to the debug output of Node", async () => {
  const script = `
    import { createServer } from "node:http";
    import { createApiKey, HttpStore } from "@keyward/http-kv";
    const { apiKey } = createApiKey({ tenant: "app" });
    const server = createServer((request, response) => response.end()).listen(0, "127.0.0.1", async () => {
      const store = new HttpStore({ url: "http://127.0.0.1:" + server.address().port, apiKey });
      await store.set("session", "c0ffee-value").catch(() => undefined);
      console.log(apiKey.slice(-43));
      server.closeAllConnections();
      server.close();
    });
  `;
  const env = { ...process.env, DEBUG: "*", NODE_DEBUG: "net,tls,http,https,undici,fetch,stream" };
  const options = { cwd: workspace, env, timeout: 30_000, maxBuffer: 2 ** 27 };
  const { stdout, stderr } = await run(process.execPath, ["--input-type=module", "--eval", script], options);
  expect(stdout.trim()).toHaveLength(43);
  expect(stderr).toContain("createConnection");
  for (const secret of [stdout.trim(), "c0ffee-value"]) expect(stderr.includes(secret)).toBe(false);
});
