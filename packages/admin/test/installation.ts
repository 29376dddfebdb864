import type { WrappableStore } from "@keyward/core";
import { Keyring } from "@keyward/core";
import { type IssuedToken, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { onTestFinished } from "vitest";
import { MemoryAudit } from "./memory-audit.ts";

/** A secrets service with one workspace. */
export interface Installation {
  readonly admin: SecretsAdmin;
  readonly audit: MemoryAudit;
  readonly operator: IssuedToken;
  readonly workspaceAdmin: IssuedToken;
}

/** Initializes a secrets service in an empty store. */
export async function install(store: WrappableStore = new MemoryStore()): Promise<Installation> {
  const audit = new MemoryAudit();
  const admin = new SecretsAdmin({ store, keys: Keyring.generate(), audit });
  onTestFinished(() => admin.close());
  const { operator, admin: workspaceAdmin } = await admin.initialize();
  return { admin, audit, operator, workspaceAdmin };
}
