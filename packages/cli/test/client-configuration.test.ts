import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CommandError } from "../src/exit-codes.ts";
import { type ClientEntry, clientEntries } from "../src/service/client-configuration/client-entries.ts";
import { clientConfiguration, exportClients } from "../src/service/client-configuration/exported.ts";

const url = "https://mcp.example.com/mcp";

function one(given: object, env: Readonly<Record<string, string>> = {}): ClientEntry {
  const [entry] = clientEntries(JSON.stringify({ mcpServers: { github: given } }), env);
  if (entry === undefined) throw new Error("The file has no entry");
  return entry;
}

function header(name: string, value: unknown, env: Readonly<Record<string, string>> = {}) {
  const entry = one({ url, headers: { [name]: value } }, env);
  return entry.kind === "remote" ? entry.headers[0] : entry;
}

describe("the servers of a client's configuration", () => {
  it.each([
    ["Claude Code", { mcpServers: { github: { type: "http", url } } }],
    ["Cursor", { mcpServers: { github: { url } } }],
    ["Windsurf", { mcpServers: { github: { serverUrl: url } } }],
    ["Gemini", { mcpServers: { github: { httpUrl: url } } }],
    ["Cline", { mcpServers: { github: { type: "streamableHttp", url, disabled: false } } }],
    ["VS Code", { inputs: [], servers: { github: { type: "http", url } } }],
    ["the settings of VS Code", { mcp: { servers: { github: { type: "http", url } } } }],
  ])("are read from the file of %s", (_, file) => {
    expect(clientEntries(JSON.stringify(file), {})).toMatchObject([
      { kind: "remote", slug: "github", url, headers: [] },
    ]);
  });

  it("are read from a file with comments, trailing commas and a byte order mark that was removed", () => {
    const text = `// mine\n{ "servers": { /* one */ "github": { "url": "${url}", }, }, }\r\n`;
    expect(clientEntries(text, {})).toMatchObject([{ kind: "remote", url }]);
  });

  it.each([
    ["GitHub MCP", "github-mcp"],
    ["io.github.example/server", "io-github-example-server"],
    ["Überprüfung_2", "uberprufung-2"],
    [`${"a".repeat(31)}-b`, "a".repeat(31)],
  ])("get a slug from the name %s", (name, slug) => {
    expect(clientEntries(JSON.stringify({ mcpServers: { [name]: { url } } }), {})).toMatchObject([{ name, slug }]);
  });

  it("are not imported if two of them would have the same slug, while the other servers are", () => {
    const mcpServers = { "my server": { url }, "my-server": { url: "https://other.example.com" }, third: { url } };
    const entries = clientEntries(JSON.stringify({ mcpServers }), {});
    expect(entries).toMatchObject([
      { kind: "left", reason: "Another entry would have the slug my-server, too" },
      { kind: "left" },
      { kind: "remote", slug: "third" },
    ]);
  });

  it.each<[object, RegExp]>([
    [{ command: "npx", env: { KEY: "secret" } }, /program/],
    [{ type: "stdio", url }, /program/],
    [{ type: "sse", url }, /SSE/],
    [{ url: "https://mcp.example.com/sse" }, /seems to use the transport SSE/],
    [{ type: "ws", url }, /transport .*unknown/],
    [{ type: 7, url }, /transport .*unknown/],
    [{ url, disabled: true }, /disabled/],
    [{}, /no URL/],
    [{ url: 7 }, /no URL/],
    [{ url: "mcp.example.com/mcp" }, /absolute URL/],
    [{ url: "https://user:secret@mcp.example.com" }, /user or a password/],
    [{ url: `${url}?key=secret` }, /query/],
    [{ url: `${url}#secret` }, /fragment/],
    [{ url: `https://\${env:HOST_NAME}/mcp` }, /variable HOST_NAME is not set/],
  ])("are left out with a reason: %j", (given, reason) => {
    expect(one(given)).toMatchObject({ kind: "left", reason: expect.stringMatching(reason) });
    expect(JSON.stringify(one(given))).not.toContain("secret@");
  });

  it("have a URL in which placeholders are replaced by environment variables", () => {
    expect(one({ url: `\${BASE_URL:-https://mcp.example.com}/mcp` })).toMatchObject({ url, urlVariables: [] });
    const env = { BASE_URL: "https://other.example.com" };
    expect(one({ url: `\${BASE_URL:-https://mcp.example.com}/mcp` }, env)).toMatchObject({
      url: "https://other.example.com/mcp",
      urlVariables: ["BASE_URL"],
    });
  });

  it("are reported as not imported if they belong to single projects of Claude Code", () => {
    const file = { mcpServers: { github: { url } }, projects: { "/home/ada": { mcpServers: { own: { url } } } } };
    expect(clientEntries(JSON.stringify(file), {})).toMatchObject([
      { kind: "remote" },
      { kind: "left", name: "projects" },
    ]);
  });

  it.each([
    ["{}", /names no servers/],
    ["[]", /names no servers/],
    ['{ "mcpServers": {} }', /names no servers/],
    ['{ "mcpServers": "secret" }', /names no servers/],
    ["", /^Line 1 of the file is not valid JSON/],
    ['{\n "mcpServers": {\n  "github": "secret\n } }', /^Line 3 of the file is not valid JSON/],
    ['{ "mcpServers": { "a": {},\n "a": {} } }', /^Line 2 of the file has a name a second time/],
    ["[".repeat(200_000), /./],
    ["A_KEY=secret", /is an \.env file/],
    ["# remark\nexport A_KEY=secret", /is an \.env file/],
  ])("cannot be read from an invalid file, whose error names the reason: %#", (text, message) => {
    expect(() => clientEntries(text, {})).toThrow(message);
    expect(() => clientEntries(text, {})).toThrow(CommandError);
    expect(() => clientEntries(text, {})).not.toThrow(/secret/);
  });
});

describe("a header of a client's configuration", () => {
  const pair = Buffer.from("ada:the-password").toString("base64");

  it.each<[string, string, object, string]>([
    ["Authorization", "Bearer the-token-of-ada", { kind: "bearer" }, "the-token-of-ada"],
    ["authorization", "bearer  the-token-of-ada ", { kind: "bearer" }, "the-token-of-ada"],
    ["Authorization", `Basic ${pair}`, { kind: "basic" }, "ada:the-password"],
    [
      "Authorization",
      "Basic not-base-64",
      { kind: "template", header: "Authorization", template: "Basic {value}" },
      "not-base-64",
    ],
    [
      "Authorization",
      "token the-token-of-ada",
      { kind: "template", header: "Authorization", template: "token {value}" },
      "the-token-of-ada",
    ],
    ["Authorization", "the-token-of-ada", { kind: "header", header: "Authorization" }, "the-token-of-ada"],
    // A first word that is not a scheme may be a part of the value.
    ["X-Phrase", "correct horse", { kind: "header", header: "X-Phrase" }, "correct horse"],
    ["X-Api-Key", "the-key-of-ada", { kind: "header", header: "X-Api-Key" }, "the-key-of-ada"],
    [
      "X-Auth",
      "Bearer the-token-of-ada",
      { kind: "template", header: "X-Auth", template: "Bearer {value}" },
      "the-token-of-ada",
    ],
  ])("becomes a secret with its rule: %s: %s", (name, given, injection, value) => {
    expect(header(name, given)).toMatchObject({ kind: "secret", header: name, injection, value });
  });

  it.each(["Accept", "content-type", "User-Agent", "X-Forwarded-For", "Mcp-Session-Id", "Host", "Origin"])(
    "is skipped with a reason: %s",
    (name) => {
      expect(header(name, "any-value-of-a-client")).toMatchObject({ kind: "skipped", header: name });
    },
  );

  it.each<[string, unknown, RegExp]>([
    ["Cookie", "session=the-value", /no value in this header/],
    ["X-Mcp-Readonly", "true", /8 to 8,192 bytes/],
    ["X-Api-Key", 12345678, /not a text/],
    ["X-Api-Key", "the-key\r\nHost: evil", /control characters/],
    ["X!Key", "the-value", /cannot be the name of a secret/],
    ["X Y", "the-value", /name of the header/],
    ["sk-proj-abc123def456", "Authorization", /looks like a value/],
  ])("is refused with a reason: %s", (name, value, reason) => {
    expect(header(name, value)).toMatchObject({ kind: "refused", reason: expect.stringMatching(reason) });
  });

  it("is refused if the server has the same header in another spelling", () => {
    const entry = one({ url, headers: { "X-Api-Key": "the-key-of-ada", "x-api-key": "another-key" } });
    expect(entry).toMatchObject({ headers: [{ kind: "secret" }, { kind: "refused", reason: /twice/ }] });
  });

  it.each(["auth", "env", "headersHelper", "oauth"])("is reported if a credential is in the field %s", (field) => {
    expect(one({ url, [field]: { CLIENT_SECRET: "secret" } })).toMatchObject({
      headers: [{ kind: "refused", header: null, reason: `The field \`${field}\` is not read` }],
    });
  });

  it.each([
    [`\${GITHUB_TOKEN}`, { kind: "header", header: "Authorization" }, "the-token-of-ada"],
    [`Bearer \${GITHUB_TOKEN}`, { kind: "bearer" }, "the-token-of-ada"],
    [`Bearer \${env:GITHUB_TOKEN}`, { kind: "bearer" }, "the-token-of-ada"],
    [`Bearer \${GITHUB_TOKEN:-other}`, { kind: "bearer" }, "the-token-of-ada"],
    [`Bearer a-\${GITHUB_TOKEN}-z`, { kind: "bearer" }, "a-the-token-of-ada-z"],
  ])("becomes a secret with the value of an environment variable: %s", (given, injection, value) => {
    expect(header("Authorization", given, { GITHUB_TOKEN: "the-token-of-ada" })).toMatchObject({
      kind: "secret",
      injection,
      value,
      variables: ["GITHUB_TOKEN"],
    });
  });

  it("gets the default value of a placeholder, and keeps placeholders in the value of a variable unchanged", () => {
    expect(header("X-Key", `\${A_KEY:-the-default}`)).toMatchObject({ value: "the-default", variables: [] });
    const env = { A_KEY: `\${OTHER_KEY}-value`, OTHER_KEY: "other" };
    expect(header("X-Key", `\${A_KEY}`, env)).toMatchObject({ value: `\${OTHER_KEY}-value` });
  });

  it.each([
    [`Bearer \${GITHUB_TOKEN}`, "The environment variable GITHUB_TOKEN is not set"],
    [`Bearer \${KEYWARD_TOKEN}`, "The placeholder names KEYWARD_TOKEN, which is the login of this command"],
    [`Bearer \${constructor}`, "The environment variable of the placeholder is not set"],
    [`Bearer \${ghp_16C7e42F292c6912E7}`, "The environment variable of the placeholder is not set"],
    [`Bearer \${input:token}`, "The client asks for the value, so the file does not have the value"],
    [`Bearer \${file:/secret}`, "Only the client can replace the placeholder of the value"],
    [`Bearer \${A_KEY:-\${B_KEY}}`, /is not closed, or is inside another one/],
  ])("is reported with its rule but without a value: %s", (given, reason) => {
    expect(header("Authorization", given, { GITHUB_TOKEN: "", KEYWARD_TOKEN: "kwt_none" })).toMatchObject({
      kind: "unset",
      injection: { kind: "bearer" },
      reason: typeof reason === "string" ? reason : expect.stringMatching(reason),
    });
  });
});

describe("the report about a client's configuration", () => {
  it("contains no value of the file, wherever the file has an error", () => {
    const value = fc.constantFrom("a", "b", "c").map((mark) => `${mark}${randomBytes(12).toString("hex")}`);
    const text = fc.tuple(fc.constantFrom("", "Bearer ", "Basic ", "token "), value).map((parts) => parts.join(""));
    const field = fc.oneof(text, fc.array(text, { maxLength: 2 }), fc.dictionary(fc.constantFrom("a", "B_KEY"), text));
    const entry = fc.record(
      {
        url: fc.oneof(
          value.map((secret) => `https://ada:${secret}@mcp.example.com`),
          value.map((secret) => `https://mcp.example.com/${secret}?key=${secret}`),
          value.map((secret) => `https://mcp.example.com/${secret}`),
          field,
        ),
        headers: fc.oneof(
          field,
          fc.dictionary(fc.constantFrom("Authorization", "X-Key", "Accept", "Cookie", "bad name"), field),
          // The value stands in the place of the name.
          fc.dictionary(text, fc.constant("Authorization")),
        ),
        type: fc.oneof(fc.constantFrom("http", "sse"), field),
        env: field,
        command: field,
        args: field,
      },
      { requiredKeys: [] },
    );
    const servers = fc.dictionary(fc.constantFrom("github", "linear"), fc.oneof(entry, field));
    const file = fc.record({ mcpServers: fc.oneof(servers, field), servers, inputs: field }, { requiredKeys: [] });
    const damage = fc.option(fc.record({ at: fc.nat(), cut: fc.nat(3), insert: fc.constantFrom(...'{}[]",:\\\n/* ') }));
    fc.assert(
      fc.property(file, damage, (given, done) => {
        const whole = JSON.stringify(given);
        const at = done === null ? 0 : done.at % whole.length;
        const read = done === null ? whole : whole.slice(0, at) + done.insert + whole.slice(at + done.cut);
        const printed = shownOf(read);
        const values = whole.match(/[abc][0-9a-f]{24}/g) ?? [];
        expect(
          values.filter((secret) => printed.includes(secret.slice(1, 13)) || printed.includes(secret.slice(13))),
        ).toEqual([]);
      }),
      { numRuns: 1_000 },
    );
  });

  function shownOf(text: string): string {
    try {
      const hidden = ["url", "value"];
      return JSON.stringify(clientEntries(text, {}), (key, value) => (hidden.includes(key) ? undefined : value));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      return `${error.message} ${error.hint}`;
    }
  }
});

it.each(exportClients)(
  "the configuration that is printed for %s can be read again, with the URL and without a token",
  (client) => {
    const printed = JSON.stringify(clientConfiguration(client, [{ name: "team", url }]));
    expect(clientEntries(printed, {})).toMatchObject([
      { kind: "remote", name: "team", url, headers: [{ kind: "unset", injection: { kind: "bearer" } }] },
    ]);
    const read = clientEntries(printed, { KEYWARD_CALL_TOKEN: "the-token-of-ada" });
    if (client !== "vscode") expect(read).toMatchObject([{ headers: [{ value: "the-token-of-ada" }] }]);
  },
);
