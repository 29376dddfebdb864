// Serves a module with Hono on Node. The path of the module is the parameter.
import { pathToFileURL } from "node:url";
import { serve } from "@hono/node-server";
import type { Hono } from "hono";

const { default: app }: { default: Hono } = await import(pathToFileURL(process.argv[2] ?? "").href);

serve({ fetch: app.fetch, hostname: "127.0.0.1", port: 0 }, ({ port }) => {
  console.log(`http://127.0.0.1:${port}`);
});
