import type { IncomingMessage, ServerResponse } from "node:http";
import { describe, expect, it } from "vitest";
import { Turns } from "../../src/aggregate/turns.ts";
import { answerJson, bodyOf, startUpstream, testValue } from "../installation.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

interface Message {
  readonly id?: number | string;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
}

/** Answers a message in its own way, and returns true; or returns false. */
type OwnAnswer = (message: Message, request: IncomingMessage, response: ServerResponse) => boolean;

/** Starts a server with sessions and the tool `x`. */
async function startServer(own: OwnAnswer) {
  const messages: Message[] = [];
  const upstream = await startUpstream(async (request, response) => {
    const message: Message = JSON.parse((await bodyOf(request)) || "{}");
    messages.push(message);
    if (own(message, request, response)) return;
    const { id, method } = message;
    if (request.method === "DELETE") return void response.writeHead(200).end();
    if (request.method === "GET") return void response.writeHead(405).end();
    if (id === undefined || method === undefined) return void response.writeHead(202).end();
    const results: Readonly<Record<string, object>> = {
      initialize: {
        protocolVersion: "2025-11-25",
        capabilities: { tools: {} },
        serverInfo: { name: "greedy", version: "1" },
      },
      "tools/list": { tools: [{ name: "x", inputSchema: { type: "object" } }] },
      "tools/call": { content: [] },
    };
    answerJson(response, { jsonrpc: "2.0", id, result: results[method] }, { "mcp-session-id": "s" });
  });
  return { url: `${upstream.origin}/mcp`, port: upstream.port, messages };
}

const event = (message: object) => `data: ${JSON.stringify({ jsonrpc: "2.0", ...message })}\n\n`;

async function startBeside(greedy: Awaited<ReturnType<typeof startServer>>) {
  const good = await startPeer(["legacy"]);
  const workspace = await startWorkspace({ good, greedy });
  const begin = async (capabilities: object = {}, token?: string) => {
    const params = { protocolVersion: "2025-11-25", capabilities, clientInfo: { name: "test", version: "1" } };
    const begun = await workspace.send({ id: 1, method: "initialize", params }, undefined, token);
    return { text: await begun.text(), session: begun.headers.get("mcp-session-id") ?? "" };
  };
  const call = async (name: string, session: string, given: object = {}) =>
    await (await workspace.send({ id: 2, method: "tools/call", params: { name, arguments: given } }, session)).text();
  return { ...workspace, good, begin, call };
}

describe("a server that asks too much", () => {
  it("gets few answers at once to its pings, and other servers are called meanwhile", async () => {
    let answers = 0;
    const greedy = await startServer((message, request, response) => {
      if (request.method === "GET") {
        const pings = Array.from({ length: 250 }, (_, index) => event({ id: `p${index}`, method: "ping" }));
        response.writeHead(200, { "content-type": "text/event-stream" }).write(pings.join(""));
        return true;
      }
      // The answers to pings are never accepted.
      if (message.method !== undefined || message.id === undefined) return false;
      answers++;
      return true;
    });
    const { begin, call } = await startBeside(greedy);
    const { session } = await begin();
    await call("greedy__x", session);
    await expect.poll(() => answers).toBe(4);
    expect(await call("good__echo", session, { text: "hello" })).toContain("hello");
    expect(answers).toBe(4);
  });

  it("gets errors for more questions at once than ten", async () => {
    const errors: unknown[] = [];
    const greedy = await startServer((message, _, response) => {
      if (message.method === "tools/call") {
        const questions = Array.from({ length: 15 }, (_, index) =>
          event({ id: `q${index}`, method: "sampling/createMessage", params: { messages: [], maxTokens: 1 } }),
        );
        response.writeHead(200, { "content-type": "text/event-stream" }).write(questions.join(""));
        return true;
      }
      if ("error" in message) errors.push(message.error);
      return false;
    });
    const { begin, url, token } = await startBeside(greedy);
    const { session } = await begin({ sampling: {} });
    // The caller reads the questions, and answers none.
    const leaving = new AbortController();
    const answer = await fetch(url, {
      method: "POST",
      signal: leaving.signal,
      headers: {
        authorization: `Bearer ${token}`,
        accept: "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-session-id": session,
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 2, method: "tools/call", params: { name: "greedy__x" } }),
    });
    expect(answer.status).toBe(200);
    await expect.poll(() => errors.length).toBe(5);
    expect(errors).toContainEqual(
      expect.objectContaining({ message: expect.stringContaining("More than 10 requests") }),
    );
    leaving.abort();
  });
});

it("a list stays valid without an entry that would not be JSON after the redaction", async () => {
  const digits = "7234567890123456";
  const greedy = await startServer((message, _, response) => {
    if (message.method !== "tools/list") return false;
    const text = `{"jsonrpc":"2.0","id":${message.id},"result":{"tools":[{"name":"x","inputSchema":{"type":"object"}},{"name":"y","inputSchema":{"type":"object"},"_meta":{"n":7.234567890123456e15}}]}}`;
    response.writeHead(200, { "content-type": "application/json" }).end(text);
    return true;
  });
  const { begin, send, admin, caller } = await startBeside(greedy);
  await admin.setSecret(caller, "greedy", { name: "PIN", value: digits, rule: { kind: "header", header: "x-pin" } });
  const { session } = await begin();
  const listed = async () => {
    const text = await (await send({ id: 2, method: "tools/list" }, session)).text();
    const { result }: { result: { tools: { name: string }[] } } = JSON.parse(text);
    expect(text).not.toContain(digits);
    return result.tools.map(({ name }) => name);
  };
  await expect
    .poll(listed)
    .toEqual(["echo", "slow", "progress", "sampling"].map((name) => `good__${name}`).concat("greedy__x"));
});

it("values that are found only in composed texts count as guesses", async () => {
  const digits = "7234567890123456";
  const greedy = await startServer((message, _, response) => {
    if (message.method !== "tools/call") return false;
    const text = `{"jsonrpc":"2.0","id":${message.id},"result":{"content":[{"type":"text","text":"a"}],"x":{"n":7.234567890123456e15}}}`;
    response.writeHead(200, { "content-type": "application/json" }).end(text);
    return true;
  });
  const { begin, call, admin, caller } = await startBeside(greedy);
  await admin.setSecret(caller, "greedy", { name: "PIN", value: digits, rule: { kind: "header", header: "x-pin" } });
  const { session } = await begin();
  const answers: string[] = [];
  for (let count = 0; count < 22; count++) answers.push(await call("greedy__x", session));
  expect(answers.join("\n")).not.toContain(digits);
  expect(answers.at(-1)).toContain("GUESSES_REFUSED");
});

describe("a greedy caller", () => {
  it("cannot have capabilities of more than 4,096 characters", async () => {
    const { begin } = await startBeside(await startServer(() => false));
    const { text, session } = await begin({ sampling: { x: "x".repeat(5_000) } });
    expect(text).toContain("more than 4096 characters");
    expect(session).toBe("");
  });

  it("cannot keep a stream open after the revocation of its token by presenting the token again and again", async () => {
    const { begin, url, admin, caller } = await startBeside(await startServer(() => false));
    const { token, info } = await admin.createToken(caller, { owner: "bob", role: "member" });
    const { session } = await begin({}, token);
    const present = () =>
      fetch(url, {
        headers: { authorization: `Bearer ${token}`, accept: "text/event-stream", "mcp-session-id": session },
      });
    const stream = await present();
    expect(stream.status).toBe(200);
    let isOpen = true;
    const ended = stream.text().finally(() => {
      isOpen = false;
    });
    await admin.revokeToken(caller, info.id);
    const statuses = new Set<number>();
    while (isOpen) {
      const answer = await present();
      statuses.add(answer.status);
      await answer.text();
    }
    await ended;
    expect(statuses).toContain(429);
  });

  it("cannot call an HTTP API as an MCP server", async () => {
    const { begin, call, admin, caller, good } = await startBeside(await startServer(() => false));
    await admin.createServer(caller, { slug: "api", url: good.url.replace("/mcp", ""), kind: "http" });
    await admin.setSecret(caller, "api", { name: "TOKEN", value: testValue });
    const before = good.requests.length;
    const { session } = await begin();
    const unknown = await call("nothing__x", session);
    expect(await call("api__x", session)).toBe(unknown);
    expect(good.requests.slice(before).filter(({ body }) => body.includes("api__x") || body.includes('"x"'))).toEqual(
      [],
    );
  });
});

it("a call whose server is disabled ends with an error about the server, and the session stays", async () => {
  const greedy = await startServer(({ method }) => method === "tools/call");
  const { begin, call, admin, caller } = await startBeside(greedy);
  const { session } = await begin();
  const ending = call("greedy__x", session);
  await expect.poll(() => greedy.messages.some(({ method }) => method === "tools/call")).toBe(true);
  await admin.updateServer(caller, "greedy", { disabled: true });
  expect(await ending).toContain("The token can use no such tool");
  expect(await call("good__echo", session, { text: "hello" })).toContain("hello");
});

it("a session of a server that begins while its caller leaves is ended", async () => {
  const open = new Set<string>();
  let made = 0;
  const waiting: (() => void)[] = [];
  const greedy = await startServer(({ id, method }, request, response) => {
    if (request.method === "DELETE") open.delete(String(request.headers["mcp-session-id"]));
    if (method !== "initialize") return false;
    const session = `s${++made}`;
    open.add(session);
    const answer = () =>
      answerJson(
        response,
        {
          jsonrpc: "2.0",
          id,
          result: {
            protocolVersion: "2025-11-25",
            capabilities: { tools: {} },
            serverInfo: { name: "x", version: "1" },
          },
        },
        { "mcp-session-id": session },
      );
    // The first session is that of the lists.
    if (made === 1) answer();
    else waiting.push(answer);
    return true;
  });
  const { begin, call, url, token } = await startBeside(greedy);
  const { session } = await begin();
  await expect.poll(() => made === 1 && open.size === 0).toBe(true);
  const ending = call("greedy__x", session).catch(() => "");
  await expect.poll(() => waiting.length).toBe(1);
  const left = fetch(url, {
    method: "DELETE",
    headers: { authorization: `Bearer ${token}`, "mcp-session-id": session },
  });
  await expect
    .poll(
      async () =>
        (await fetch(url, { headers: { authorization: `Bearer ${token}`, "mcp-session-id": session } })).status,
    )
    .toBe(404);
  for (const answer of waiting) answer();
  await Promise.all([ending, left.then((answer) => answer.text())]);
  await expect.poll(() => [...open]).toEqual([]);
});

it("owners take turns, and an owner whose functions take long does not delay those of others", async () => {
  const turns = new Turns(4, 2);
  const order: string[] = [];
  const ends: (() => void)[] = [];
  const hanging = Array.from({ length: 6 }, (_, index) =>
    turns.run("slow", async () => {
      order.push(`slow ${index}`);
      await new Promise<void>((resolve) => ends.push(resolve));
    }),
  );
  await turns.run("quick", async () => void order.push("quick"));
  expect(order).toEqual(["slow 0", "slow 1", "quick"]);
  while (order.length < 7) {
    for (const end of ends.splice(0)) end();
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const end of ends) end();
  await Promise.all(hanging);
});
