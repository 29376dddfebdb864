// Serves a fetch handler on srvx: createKvHandler, or a minimal handler that only compares the API key and answers.
// Parameters: "keyward" or "bare", the entry of the API key as JSON, the value of the answer.
import { createHash, timingSafeEqual } from "node:crypto";
import { createKvHandler } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { serve } from "srvx/node";

const [kind, entryJson = "{}", text = ""] = process.argv.slice(2);
const entry = JSON.parse(entryJson);

function bareHandler(): (request: Request) => Promise<Response> {
  const expected = Buffer.from(entry.hash, "base64url");
  const answer = JSON.stringify({ values: [{ text }] });
  return async (request) => {
    const apiKey = /^Bearer +([^ ]+) *$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
    await request.arrayBuffer();
    const isGood = timingSafeEqual(createHash("sha256").update(apiKey).digest(), expected);
    return new Response(answer, { status: isGood ? 200 : 401, headers: { "content-type": "application/json" } });
  };
}

const limits = { requestsPerSecond: Number.POSITIVE_INFINITY };
const fetch = kind === "bare" ? bareHandler() : createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
const server = serve({ fetch, hostname: "127.0.0.1", port: 0, silent: true });
await server.ready();
console.log(`listens on ${server.url}`);
