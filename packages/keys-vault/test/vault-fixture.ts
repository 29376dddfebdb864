import { randomUUID } from "node:crypto";
import { vi } from "vitest";
import type { VaultServer } from "../../../test/servers/openbao.ts";

/** A KV engine of version 2, or a Transit engine, under a name of its own. */
export async function mountEngine(server: VaultServer, type: "kv" | "transit", namespace?: string): Promise<string> {
  const mount = `${type}-${randomUUID()}`;
  const options = type === "kv" ? { options: { version: "2" } } : {};
  const access = namespace === undefined ? {} : { namespace };
  await server.request("POST", `sys/mounts/${mount}`, { type, ...options }, access);
  if (type === "kv") {
    // A new engine answers 400 until it has upgraded itself.
    const answers = async () => (await statusOf(server.request("GET", `${mount}/config`, undefined, access))) === 200;
    await vi.waitUntil(answers, { timeout: 10_000, interval: 10 });
  }
  return mount;
}

/** A policy under a name of its own, and the name. */
export async function writePolicy(server: VaultServer, policy: string): Promise<string> {
  const name = `policy-${randomUUID()}`;
  await server.request("PUT", `sys/policies/acl/${name}`, { policy });
  return name;
}

/** A token that lives for so long, without a parent. */
export async function makeToken(
  server: VaultServer,
  settings: { policies: readonly string[]; [setting: string]: unknown },
): Promise<string> {
  const { auth } = await server.request("POST", "auth/token/create-orphan", settings);
  return String(auth?.["client_token"]);
}

/** Mounts a login method under a name of its own. */
export async function mountMethod(server: VaultServer, type: string): Promise<string> {
  const mount = `${type}-${randomUUID()}`;
  await server.request("POST", `sys/auth/${mount}`, { type });
  return mount;
}

/** The status that the server answers with. */
export async function statusOf(answer: Promise<unknown>): Promise<number> {
  try {
    await answer;
    return 200;
  } catch (error) {
    const response: unknown = Reflect.get(Object(error), "response");
    return Number(Reflect.get(Object(response), "statusCode"));
  }
}
