import { inspect } from "node:util";
import { expect, it } from "vitest";
import { type Answer, install, wholeText } from "./installation.ts";

// A value with characters that JSON, percent-encoding and base64 encode. It is printable, so that each field accepts it.
const value = 'S3cret "quoted" /slash\\ +&=%ü~~~???>>>value';
const pair = `user:${value}`;

/** Returns the forms in which common encoders write a value. */
function formsOf(text: string): ReadonlyMap<string, string> {
  const bytes = Buffer.from(text);
  const forms = new Map([
    ["plain", text],
    ["JSON", JSON.stringify(text).slice(1, -1)],
    ["JSON in JSON", JSON.stringify(JSON.stringify(text)).slice(3, -3)],
    ["percent", encodeURIComponent(text)],
    ["form", new URLSearchParams({ v: text }).toString().slice(2)],
    ["hex", bytes.toString("hex")],
    ["upper hex", bytes.toString("hex").toUpperCase()],
    ["inspect", inspect(text).slice(1, -1)],
  ]);
  for (let shift = 0; shift < 3; shift++) {
    // Without the first and last characters, which depend on the bytes before and after the value.
    const shifted = Buffer.concat([Buffer.alloc(shift), bytes]);
    const inner = (encoding: "base64" | "base64url") => shifted.toString(encoding).replace(/=+$/, "").slice(4, -2);
    forms.set(`base64 at ${shift}`, inner("base64"));
    forms.set(`base64url at ${shift}`, inner("base64url"));
  }
  return forms;
}

function expectNoValue(where: string, text: string): void {
  for (const secret of [value, pair]) {
    for (const [form, needle] of formsOf(secret)) {
      expect(text.includes(needle), `${where} has the value as ${form}`).toBe(false);
    }
  }
}

it("the search of these tests finds each encoded form of a value", () => {
  for (const [form, needle] of formsOf(value)) {
    expect(() => expectNoValue("a text", `before ${needle} after`), form).toThrow("has the value as");
  }
});

it("no answer, header, audit entry or error report contains a value that was set", async () => {
  const reports: string[] = [];
  const { send, admin, operator, audit, tokenOf } = await install({
    limits: "lifted",
    onError: (error, request) => reports.push(inspect({ error, request }, { depth: 10, showHidden: true })),
  });
  const auditor = (await tokenOf("auditor", "auditor")).token;
  const answers: [string, Answer][] = [];
  const ask = async (token: string | undefined, method: string, path: string, options = {}) => {
    const answer = await send(token, method, path, options);
    answers.push([`${method} ${path}`, answer]);
    return answer.status;
  };
  const secrets = "/mcp-servers/github/secrets";
  await ask(admin.token, "POST", "/mcp-servers", { body: { slug: "github", url: "https://mcp.example.com" } });
  // Set the value in each way that the service accepts.
  for (const [name, injection] of [
    ["A", { kind: "bearer" }],
    ["B", { kind: "header", header: "X-B" }],
    ["C", { kind: "template", header: "X-C", template: "token {value}" }],
  ] as const) {
    expect(await ask(admin.token, "POST", secrets, { body: { name, value, injection } })).toBe(201);
    expect(await ask(admin.token, "POST", secrets, { body: { name, value, injection, redacted: false } })).toBe(200);
  }
  expect(await ask(admin.token, "DELETE", `${secrets}/A`)).toBe(200);
  expect(
    await ask(admin.token, "POST", secrets, { body: { name: "D", value: pair, injection: { kind: "basic" } } }),
  ).toBe(201);
  // Read everything.
  for (const path of [
    "/mcp-servers/github",
    secrets,
    `${secrets}/B/injection`,
    "/mcp-servers",
    "/changes",
    "/calls",
    `/mcp-servers/github/explanation?token=${admin.info.id}`,
    "/tokens",
  ]) {
    expect(await ask(admin.token, "GET", path)).toBe(200);
  }
  expect(await ask(auditor, "GET", "/changes")).toBe(200);
  for (const path of ["/keys/census", "/keys/rotation", "/workspaces", "/changes"]) {
    expect(await ask(operator.token, "GET", path)).toBe(200);
  }
  expect(await ask(admin.token, "PUT", `${secrets}/B/injection`, { body: { kind: "header", header: "X-BB" } })).toBe(
    200,
  );
  expect(await ask(admin.token, "PATCH", "/mcp-servers/github", { body: { url: "https://other.example.com" } })).toBe(
    200,
  );
  // Send the value in fields where it does not belong.
  const text = encodeURIComponent(value);
  for (const body of [
    { name: value, value },
    { name: "E", value: `${value}\n` },
    { name: "E", value: [value] },
    { name: "E", value, expires: value },
    { name: "E", value, injection: value },
    { name: "E", value, injection: { kind: value } },
    { name: "E", value, injection: { kind: "header", header: value } },
    { name: "E", value, injection: { kind: "template", header: "X", template: value } },
    { name: "E", value, injection: { kind: "basic" } },
    { name: "E", value, [value]: value },
    { name: "E", value, redacted: value },
    `{"name":"E","value":${JSON.stringify(value)}`,
    `{"name":"E","value":"${value}"}`,
  ]) {
    expect(await ask(admin.token, "POST", secrets, { body })).toBeGreaterThanOrEqual(400);
  }
  for (const [method, path, body] of [
    ["POST", "/mcp-servers", { slug: value, url: value, kind: value }],
    ["POST", "/mcp-servers", { slug: "x", url: `https://${text}@example.com` }],
    ["POST", "/mcp-servers", { slug: "x", url: `https://example.com/?key=${text}` }],
    ["POST", "/tokens", { owner: ` ${value}`, role: value, servers: [value], tools: [value], methods: [value] }],
    ["GET", `/mcp-servers/${text}`, undefined],
    ["GET", `/mcp-servers?cursor=${text}`, undefined],
    ["GET", `/mcp-servers?limit=${text}`, undefined],
    ["GET", `/mcp-servers?${text}=1`, undefined],
    ["GET", `/changes?action=${text}&from=${text}&server=${text}`, undefined],
    ["GET", `/${text}`, undefined],
    ["DELETE", `/tokens/${text}`, undefined],
    ["DELETE", `${secrets}/${text}`, undefined],
    ["PUT", `${secrets}/B/injection`, { kind: "header", header: value }],
  ] as const) {
    expect(await ask(admin.token, method, path, { body })).toBeGreaterThanOrEqual(400);
  }
  const header = encodeURIComponent(value);
  for (const name of ["if-match", "authorization", "origin", "host", "content-type"]) {
    const body = { name: "E", value };
    expect(await ask(undefined, "POST", secrets, { body, headers: { [name]: header } })).toBeGreaterThanOrEqual(400);
  }
  audit.away = true;
  expect(await ask(admin.token, "POST", secrets, { body: { name: "F", value } })).toBe(503);
  expect(reports).toHaveLength(1);

  for (const [route, answer] of answers) expectNoValue(route, wholeText(answer));
  expectNoValue("the audit", JSON.stringify(audit.entries));
  expectNoValue("the reports", reports.join("\n"));
});

it("only the answer that creates a token contains its text", async () => {
  const { send, admin, audit, clientOf } = await install();
  const client = clientOf(admin.token);
  const made = await client.createToken({ owner: "somebody", role: "member" });
  const rotated = await client.rotateToken(made.info.id, { overlapMs: 60_000 });
  const texts = [made.token, rotated.token, admin.token].map((text) => text.slice(-49));
  for (const path of ["/whoami", "/tokens", "/changes", "/calls"]) {
    const shown = wholeText(await send(rotated.token, "GET", path)) + wholeText(await send(admin.token, "GET", path));
    for (const text of texts) expect(shown).not.toContain(text);
  }
  for (const text of texts) expect(JSON.stringify(audit.entries)).not.toContain(text);
});
