import { hasRight, type Right, type Role, rolesWithRight } from "@keyward/secrets";
import { describe, expect, it } from "vitest";
import { type Answer, type Installation, install, type SendOptions, toolCall, wholeText } from "./installation.ts";
import { type Operation, operationsOf } from "./served-document.ts";

// Texts that a member and the callers of another workspace must not see.
const hidden = {
  secret: "HIDDEN_NAME",
  slug: "hidden-server",
  url: "https://hidden.example.com/mcp",
  owner: "Hidden Owner",
  adminOwner: "Hidden Admin",
};

const callId = "c4ll00000001";

const callers = ["none", "revoked", "expired", "member", "auditor", "admin", "foreign admin", "operator"] as const;
type CallerKind = (typeof callers)[number];

interface Scene extends Installation {
  /** The text of the caller's token. */
  readonly token: string | undefined;
  /** The id of a token of the workspace `main`. */
  readonly tokenId: string;
}

async function scene(caller: CallerKind): Promise<Scene> {
  const installation = await install();
  const { service, tokenOf } = installation;
  const admin = await service.authenticate((await tokenOf("admin", hidden.adminOwner)).token);
  await service.createServer(admin, { slug: hidden.slug, url: hidden.url });
  await service.setSecret(admin, hidden.slug, { name: hidden.secret, value: "a-value-that-nobody-reads" });
  const { info } = await tokenOf("member", hidden.owner);
  const call = { callId, server: hidden.slug, secrets: [{ name: hidden.secret, revision: 1 }] };
  await installation.audit.recordCall(toolCall(admin.workspace, call));
  return { ...installation, tokenId: info.id, token: await tokenOfCaller(installation, caller) };
}

async function tokenOfCaller(
  { service, admin, operator, tokenOf }: Installation,
  caller: CallerKind,
): Promise<string | undefined> {
  switch (caller) {
    case "none":
      return undefined;
    case "revoked": {
      const { token, info } = await tokenOf("admin", "revoked");
      await service.revokeToken(await service.authenticate(admin.token), info.id);
      return token;
    }
    case "expired": {
      const { token, info } = await tokenOf("admin", "expired");
      await service.rotateToken(await service.authenticate(admin.token), info.id, { overlapMs: 0 });
      return token;
    }
    case "member":
    case "auditor":
      return (await tokenOf(caller, caller)).token;
    case "admin":
      return admin.token;
    case "foreign admin": {
      const workspace = { name: "foreign", adminOwner: "foreign admin" };
      return (await service.createWorkspace(await service.authenticate(operator.token), workspace)).admin.token;
    }
    case "operator":
      return operator.token;
    default:
      return caller satisfies never;
  }
}

function roleOf(caller: CallerKind): Role | undefined {
  switch (caller) {
    case "none":
    case "revoked":
    case "expired":
      return undefined;
    case "foreign admin":
      return "admin";
    case "member":
    case "auditor":
    case "admin":
    case "operator":
      return caller;
    default:
      return caller satisfies never;
  }
}

/** A valid request for each operation with a body or a query. */
function requestOf({ id }: Operation, caller: CallerKind, tokenId: string): { readonly query?: string } & SendOptions {
  switch (id) {
    case "createWorkspace":
      return { body: { name: "another", adminOwner: "another admin" } };
    case "createServer":
      return { body: { slug: "another", url: "https://another.example.com" } };
    case "updateServer":
      return { body: { disabled: true } };
    case "setSecret":
      return { body: { name: "ANOTHER", value: "another-value-of-a-test" } };
    case "setInjection":
      return { body: { kind: "bearer" } };
    case "createToken":
      return { body: { owner: "another owner", role: caller === "operator" ? "operator" : "member" } };
    case "rotateToken":
      return { body: { overlapMs: 1_000 } };
    case "revokeTokensOf":
      return { query: `?owner=${encodeURIComponent("nobody")}` };
    case "explainCall":
      return { query: `?token=${tokenId}&tool=search` };
    default:
      return {};
  }
}

/** Returns the answer to a caller with the right: 404 if the path names something of another workspace, else success. */
function expectedOf({ path }: Operation, caller: CallerKind): "success" | 404 {
  const isElsewhere = caller === "foreign admin" || caller === "operator";
  return isElsewhere && /\{(?:slug|id)\}/.test(path) ? 404 : "success";
}

async function ask(scene: Scene, operation: Operation, caller: CallerKind): Promise<Answer> {
  const { query = "", ...options } = requestOf(operation, caller, scene.tokenId);
  const path = operation.path
    .replace("/workspaces/{name}", "/workspaces/main")
    .replace("{slug}", hidden.slug)
    .replace("{name}", hidden.secret)
    .replace("{id}", operation.id === "getCall" ? callId : scene.tokenId);
  return await scene.send(scene.token, operation.method, `${path}${query}`, options);
}

function isRight(text: string): text is Right {
  return Object.hasOwn(rolesWithRight, text);
}

describe.each(callers)("the caller %s", (caller) => {
  it("gets from each route the status that its role and its workspace allow", async () => {
    const operations = await operationsOf(await install());
    expect(operations.length).toBeGreaterThan(20);
    for (const operation of operations) {
      const current = await scene(caller);
      const { status, text } = await ask(current, operation, caller);
      const { right, id } = operation;
      const at = `${id} answered ${status}: ${text}`;
      const role = roleOf(caller);
      if (!isRight(right)) expect(status, at).toBe(200);
      else if (role === undefined) expect(status, at).toBe(401);
      else if (!hasRight(role, right)) expect(status, at).toBe(403);
      else if (expectedOf(operation, caller) === 404) expect(status, at).toBe(404);
      else expect(status, at).toSatisfy((got: number) => got < 300 && operation.statuses.includes(got));
      expect(operation.statuses, at).toContain(status);
    }
  });
});

it.each(["none", "revoked", "expired", "member", "foreign admin"] as const)(
  "shows the caller %s no name, owner, slug or URL of the workspace",
  async (caller) => {
    const current = await scene(caller);
    for (const operation of await operationsOf(current)) {
      const answer = await ask(current, operation, caller);
      const shown = wholeText(answer);
      for (const text of Object.values(hidden)) expect(shown, operation.id).not.toContain(text);
    }
  },
);

it("the API sends the same answer to each refused token, whatever the reason is", async () => {
  const installation = await install();
  const { send, admin } = installation;
  const altered = `${admin.token.slice(0, -1)}${admin.token.endsWith("a") ? "b" : "a"}`;
  const revoked = await tokenOfCaller(installation, "revoked");
  const expired = await tokenOfCaller(installation, "expired");
  const bodies = new Set<string>();
  const requests = [undefined, revoked, expired, altered, "not-a-token"].map((token) => ({ token, headers: {} }));
  for (const { token, headers } of [...requests, { token: undefined, headers: { authorization: "Basic YTpi" } }]) {
    const answer = await send(token, "GET", "/whoami", { headers });
    expect(answer.status).toBe(401);
    expect(answer.headers.get("www-authenticate")).toBe('Bearer realm="keyward"');
    bodies.add(JSON.stringify({ ...Object(answer.json), instance: "" }));
  }
  expect(bodies.size).toBe(1);
});

it("the API refuses a caller without the right before it reads the body", async () => {
  const { send, token } = await scene("member");
  expect((await send(token, "POST", "/mcp-servers", { body: "{ not json" })).status).toBe(403);
});
