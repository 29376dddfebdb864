import type { KeyProvider, WrappableStore } from "@keyward/core";
import { type AuditLog, openAuditLog, SecretsAdmin, type ServiceState } from "@keyward/secrets";
import type { Config } from "../configuration/config.ts";
import { closeStore } from "../configuration/sources.ts";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";
import { lostAudit, lostStore, notSetUp, usedStores } from "./used-stores.ts";

/** The secrets service of this machine's configuration, opened without the admin API. */
export interface LocalService {
  readonly admin: SecretsAdmin;
  readonly audit: AuditLog;
  readonly keys: KeyProvider;
  /** The store of the service without its encryption, which returns envelopes. */
  readonly store: WrappableStore;
  readonly config: Config;
}

/** Options of {@link withLocalService}. */
export interface LocalServiceOptions {
  /** True to register the process as a replica, if it runs as long as the service. Default: false. */
  readonly replica?: boolean;
  /** True to create the files of a new service. Default: false, so that a service without records is refused. */
  readonly mayBeNew?: boolean;
  readonly onProblem?: (problem: unknown) => void;
}

/** An example of the setting `gateway`, for hints. */
export const gatewaySetting = 'gateway: { store: "sqlite:.keyward/service.db", audit: ".keyward/audit.db" }';

/**
 * Runs `work` with the secrets service that the configuration names, and closes the service afterwards.
 *
 * @throws CommandError `USAGE` if there is no configuration, if it has no setting `gateway`, or if a store of the service has
 * no records; the errors of the stores.
 */
export async function withLocalService<Result>(
  context: Context,
  options: LocalServiceOptions,
  work: (service: LocalService) => Promise<Result>,
): Promise<Result> {
  const config = await gatewayConfig(context);
  const keys = await context.keys();
  if (options.mayBeNew !== true) await requireUsedStores(context, config);
  const store = await config.openStore("service", context.env);
  try {
    const audit = openAuditLog({ path: auditPath(config), keys, replica: options.replica });
    try {
      const { replica, onProblem } = options;
      const admin = new SecretsAdmin({ store, keys, audit, replica, onProblem });
      try {
        return await work({ admin, audit, keys, store, config });
      } finally {
        await admin.close();
      }
    } finally {
      await audit.close();
    }
  } finally {
    await closeStore(store);
  }
}

/** Returns the state of the service in the store of the configuration. */
export async function localState(context: Context): Promise<ServiceState> {
  return await withLocalService(context, { mayBeNew: true }, async ({ admin }) => await admin.state());
}

/**
 * Checks that both stores of the service have records. Nothing is written.
 *
 * @throws CommandError `USAGE` if a store has no records, because it was never used or was lost.
 */
export async function requireUsedStores(context: Context, config: Config): Promise<void> {
  const { service, audit } = await usedStores(context, config);
  if (service && audit) return;
  if (audit) throw lostStore(config, auditPath(config));
  throw service ? lostAudit(auditPath(config)) : notSetUp(config);
}

/**
 * Returns the configuration of the service.
 *
 * @throws CommandError `USAGE` if there is none, or if it has no setting `gateway`.
 */
export async function gatewayConfig(context: Context): Promise<Config> {
  const { config, path } = await context.told();
  if (config === undefined) {
    throw new CommandError("USAGE", "This folder has no configuration of a secrets service", {
      hint: "If the service was set up before, change to its folder, or restore `keyward.config.ts` from the backup. For a new service, run `keyward gateway init`. On a machine other than the one that runs the service, only the commands of the admin API work.",
    });
  }
  if (config.settings.gateway !== undefined) return config;
  throw new CommandError("USAGE", `The configuration ${path} has no setting "gateway"`, {
    hint: `Add \`${gatewaySetting}\` to the configuration. Then run \`keyward gateway init\`.`,
  });
}

/** Returns the path of the audit's file. */
export function auditPath(config: Config): string {
  return config.pathOf(config.settings.gateway?.audit.trim() ?? "");
}
