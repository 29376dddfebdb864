import { randomUUID } from "node:crypto";
import { vi } from "vitest";
import type { VaultServer } from "../../../test/servers/openbao.ts";

/** Mounts a KV engine of version 2, or a Transit engine, at a unique path, and returns the path. */
export async function mountEngine(server: VaultServer, type: "kv" | "transit", namespace?: string): Promise<string> {
  const mount = `${type}-${randomUUID()}`;
  const options = type === "kv" ? { options: { version: "2" } } : {};
  const access = namespace === undefined ? {} : { namespace };
  await server.request("POST", `sys/mounts/${mount}`, { type, ...options }, access);
  if (type === "kv") {
    // A new engine answers 400 until its upgrade to version 2 is complete.
    const answers = async () => (await statusOf(server.request("GET", `${mount}/config`, undefined, access))) === 200;
    await vi.waitUntil(answers, { timeout: 10_000, interval: 10 });
  }
  return mount;
}

/** Writes a policy with a unique name, and returns the name. */
export async function writePolicy(server: VaultServer, policy: string): Promise<string> {
  const name = `policy-${randomUUID()}`;
  await server.request("PUT", `sys/policies/acl/${name}`, { policy });
  return name;
}

/** Creates a token without a parent. */
export async function makeToken(
  server: VaultServer,
  settings: { policies: readonly string[]; [setting: string]: unknown },
): Promise<string> {
  const { auth } = await server.request("POST", "auth/token/create-orphan", settings);
  return String(auth?.["client_token"]);
}

/** Mounts a login method at a unique path, and returns the path. */
export async function mountMethod(server: VaultServer, type: string): Promise<string> {
  const mount = `${type}-${randomUUID()}`;
  await server.request("POST", `sys/auth/${mount}`, { type });
  return mount;
}

/** Returns the HTTP status of an answer. */
export async function statusOf(answer: Promise<unknown>): Promise<number> {
  try {
    await answer;
    return 200;
  } catch (error) {
    const response: unknown = Reflect.get(Object(error), "response");
    return Number(Reflect.get(Object(response), "statusCode"));
  }
}
