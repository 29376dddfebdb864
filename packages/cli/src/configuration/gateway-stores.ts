import type { RecordAddress, WrappableStore } from "@keyward/core";
import { auditNamespace, auditScope, auditStore, scopeOfServiceRecord } from "@keyward/secrets";
import type { ConfigSettings } from "./config-options.ts";

// Loaded only if a configuration has the setting `gateway`, so that all other commands start without the secrets service.

/** Returns a function that returns the scope of a record: a fixed one for a record of the secrets service, otherwise `scope`. */
export function scopeWithGateway(scope: ConfigSettings["scope"]): (address: RecordAddress) => string | undefined {
  return (address) => {
    const ofAudit = address.namespace === auditNamespace ? auditScope(address) : undefined;
    const ofService = scopeOfServiceRecord(address) ?? ofAudit;
    if (ofService !== undefined) return ofService;
    return typeof scope === "function" ? scope(address) : scope;
  };
}

/** Opens the file of the audit as a store, so that its records can be counted and re-encrypted. */
export function openAuditStore(path: string): WrappableStore {
  return auditStore(path);
}
