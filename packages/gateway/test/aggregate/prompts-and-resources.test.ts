import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { completable, type McpServer, ResourceTemplate } from "@modelcontextprotocol/server";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { startPeer, startWorkspace } from "./workspace.ts";

const kinds = ["v2 modern", "v2 legacy", "v1"] as const;

const info = { name: "keyward-test", version: "1.0.0" };

/** Connects one of the official clients. */
async function connect(kind: (typeof kinds)[number], url: string, token: string) {
  const init = { requestInit: { headers: { authorization: `Bearer ${token}` } } };
  if (kind === "v1") {
    const client = new ClientV1(info);
    const transport = new TransportV1(new URL(url), init);
    await client.connect(transport);
    onTestFinished(async () => {
      await transport.terminateSession();
      await client.close();
    });
    return client;
  }
  const mode = kind === "v2 modern" ? ({ pin: "2026-07-28" } as const) : "legacy";
  const client = new Client(info, { versionNegotiation: { mode } });
  const transport = new StreamableHTTPClientTransport(new URL(url), init);
  await client.connect(transport);
  onTestFinished(async () => {
    await transport.terminateSession();
    await client.close();
  });
  return client;
}

function addTo(server: McpServer): void {
  server.registerPrompt(
    "greet",
    {
      description: "Greets",
      argsSchema: z.object({
        name: completable(z.string(), (value) => ["Mia", "Noa"].filter((name) => name.startsWith(value))),
      }),
    },
    ({ name }) => ({
      messages: [
        { role: "user", content: { type: "text", text: `Hello ${name}` } },
        { role: "user", content: { type: "resource", resource: { uri: "test:a/b?c=d#e", text: "embedded" } } },
      ],
    }),
  );
  server.registerResource("fixed", "test:a/b?c=d#e", { mimeType: "text/plain" }, (uri) => ({
    contents: [{ uri: uri.href, text: `contents of ${uri.href}` }],
  }));
  server.registerResource(
    "by number",
    new ResourceTemplate("test:numbers/{number}", {
      list: undefined,
      complete: { number: (value) => ["1", "12"].filter((number) => number.startsWith(value)) },
    }),
    {},
    (uri, { number }) => ({ contents: [{ uri: uri.href, text: `number ${String(number)}` }] }),
  );
  server.registerTool("link", { inputSchema: z.object({}) }, () => ({
    content: [{ type: "resource_link", uri: "test:a/b?c=d#e", name: "fixed" }],
  }));
}

async function start(kind: (typeof kinds)[number]) {
  const [old, young] = await Promise.all([startPeer(["legacy"], addTo), startPeer(["modern"], addTo)]);
  const workspace = await startWorkspace({ old, young });
  return { ...workspace, client: await connect(kind, workspace.url, workspace.token), old, young };
}

const slugs = ["old", "young"] as const;

describe.each(kinds)("the client %s, at the endpoint of a workspace", (kind) => {
  it("lists prompts, resources and templates of all servers", async () => {
    const { client } = await start(kind);
    const { prompts } = await client.listPrompts();
    const { resources } = await client.listResources();
    const { resourceTemplates } = await client.listResourceTemplates();
    expect(prompts.map(({ name }) => name)).toEqual(slugs.map((slug) => `${slug}__greet`));
    expect(resources.map(({ uri }) => uri)).toEqual(slugs.map((slug) => `keyward+${slug}+test:a/b?c=d#e`));
    expect(resourceTemplates.map(({ uriTemplate }) => uriTemplate)).toEqual(
      slugs.map((slug) => `keyward+${slug}+test:numbers/{number}`),
    );
  });

  it.each(slugs)("gets a prompt of the server %s, with URIs that it can read", async (slug) => {
    const { client } = await start(kind);
    const { messages } = await client.getPrompt({ name: `${slug}__greet`, arguments: { name: "Mia" } });
    const uri = `keyward+${slug}+test:a/b?c=d#e`;
    expect(messages).toMatchObject([{ content: { text: "Hello Mia" } }, { content: { resource: { uri } } }]);
    const { contents } = await client.readResource({ uri });
    expect(contents).toEqual([{ uri, text: "contents of test:a/b?c=d#e" }]);
    const linked = await client.callTool({ name: `${slug}__link`, arguments: {} });
    expect(linked).toMatchObject({ content: [{ type: "resource_link", uri }] });
  });

  it.each(slugs)("expands and completes a template of the server %s", async (slug) => {
    const { client } = await start(kind);
    const uri = `keyward+${slug}+test:numbers/12`;
    expect((await client.readResource({ uri })).contents).toEqual([{ uri, text: "number 12" }]);
    const byNumber = await client.complete({
      ref: { type: "ref/resource", uri: `keyward+${slug}+test:numbers/{number}` },
      argument: { name: "number", value: "1" },
    });
    expect(byNumber.completion.values).toEqual(["1", "12"]);
    const byName = await client.complete({
      ref: { type: "ref/prompt", name: `${slug}__greet` },
      argument: { name: "name", value: "N" },
    });
    expect(byName.completion.values).toEqual(["Noa"]);
  });

  it("gets the same error for each unknown or forbidden prompt and resource", async () => {
    const { client, admin, caller } = await start(kind);
    await admin.updateServer(caller, "old", { disabled: true });
    const uris = ["test:a/b?c=d#e", "keyward+old+test:a/b?c=d#e", "keyward+unknown+test:a"];
    const ofResources = await Promise.all(uris.map((uri) => client.readResource({ uri }).catch(String)));
    expect(new Set(ofResources)).toEqual(new Set([expect.stringContaining("The token can use no such resource")]));
    const names = ["greet", "old__greet", "unknown__greet"];
    const ofPrompts = await Promise.all(names.map((name) => client.getPrompt({ name }).catch(String)));
    expect(new Set(ofPrompts)).toEqual(new Set([expect.stringContaining("The token can use no such prompt")]));
  });
});

it("the endpoint refuses subscriptions to resources from callers of the modern protocol", async () => {
  const { client } = await start("v2 modern");
  await expect(client.subscribeResource({ uri: "keyward+old+test:a" })).rejects.toThrow(/not|no /);
});
