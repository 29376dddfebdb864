import { lstat, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type KeyProvider, Keyring, KeywardError, systemCode } from "@keyward/core";
import type { Initialization } from "@keyward/secrets";
import { slugField } from "@keyward/secrets/fields";
import type { Config } from "../../configuration/config.ts";
import { configFileNames, findConfig } from "../../configuration/config-file.ts";
import { gatewayStoreNames } from "../../configuration/store-name.ts";
import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { ignoreAll } from "../../files/git-ignore.ts";
import { writeNewFile } from "../../files/new-file.ts";
import { type FirstTokens, setUpService } from "../../service/first-tokens.ts";
import { auditPath, gatewayConfig, localState, withLocalService } from "../../service/local-service.ts";
import { requireNoEviction } from "../../service/redis-policy.ts";
import { hasOnlyBegun, lostStore, usedStores } from "../../service/used-stores.ts";

/** The options of `keyward gateway init`. */
export interface GatewayInitOptions {
  /** The name of the first workspace. */
  readonly workspace: string;
  /** True if the tokens are printed although stdout is not a terminal. */
  readonly printTokens: boolean;
}

const folderName = ".keyward";
const configuration = `export default {
  folder: import.meta.dirname,
  keys: "file:${folderName}/keyring.json",
  gateway: { store: "sqlite:${folderName}/service.db", audit: "${folderName}/audit.db" },
};
`;

/**
 * Sets up a secrets service: the configuration, the keyring, the store, the audit, and the first tokens. Each step keeps what
 * already exists, so a stopped command can be run again. If two commands run at once, only one of them gets the tokens.
 */
export async function initGateway(context: Context, { workspace, printTokens }: GatewayInitOptions): Promise<void> {
  if (!slugField.safeParse(workspace).success) {
    throw new CommandError("USAGE", "This cannot be the name of a workspace, so nothing was set up", {
      hint: "A name has 1 to 32 lower-case letters and digits, with single hyphens inside.",
    });
  }
  const file = await writeConfiguration(process.cwd());
  const config = await gatewayConfig(context);
  await requireKeysOfConfiguration(context, config);
  const folder = dirname(auditPath(config));
  await makeFolder(folder);
  const keyring = await ensureKeyring(context, config);
  await requireNotLost(context, config);
  await withLocalService(context, { mayBeNew: true }, async ({ admin, store }) => {
    await requireNoEviction(store);
    const show = async (first: FirstTokens, initialization: Initialization) => {
      const lines = [
        ...(file === undefined ? [] : [`${file} is the configuration of the service.`]),
        `${folder} has the ${keyring === "created" ? "keyring, the " : ""}records and the audit. A copy of this folder is everything: keep it private.`,
        first.text,
        "Next:",
        "  keyward gateway start                 # calls and the admin API, until Ctrl-C",
        "  keyward login                         # asks for the URL and the token of the admin",
        "  keyward servers add <slug> <url>      # then: keyward secrets set <slug> <NAME> --bearer",
      ];
      context.output.result(lines.join("\n"), {
        file: file ?? null,
        folder,
        keyringCreated: keyring === "created",
        workspace: initialization.workspace.name,
        tokens: first.tokens,
        tokensFile: first.tokensFile,
        operatorExpiresAtMs: initialization.operator.info.expires ?? null,
      });
      await context.output.resultsAreWritten();
    };
    await setUpService(context.output, admin, {
      workspace,
      printsTokens: printTokens,
      beside: auditPath(config),
      show,
    });
  });
}

/**
 * Refuses a flag or an environment variable that names other keys than the configuration, because later commands would not
 * find the keyring.
 */
async function requireKeysOfConfiguration(context: Context, { settings }: Config): Promise<void> {
  const { options, env } = await context.told();
  const isFlag = options.keys !== undefined;
  if (!isFlag && !env["KEYWARD_KEYS"]?.trim()) return;
  // A configuration without keys leaves them to the flag and to the variable.
  if (settings.keys === undefined) return;
  const named = isFlag ? "The flag --keys" : "The environment variable KEYWARD_KEYS";
  throw new CommandError("USAGE", `${named} names other keys than the configuration of the service`, {
    hint: `${isFlag ? "Omit the flag" : "Unset the variable"}, and write the source of the keys into the configuration: \`keys\`.`,
  });
}

/**
 * Checks that a store without a finished service belongs to a new service, and does not replace a lost store.
 *
 * @throws CommandError `USAGE` if the store is empty, but the audit has entries of a service that was set up.
 */
async function requireNotLost(context: Context, config: Config): Promise<void> {
  const isLost = async () => {
    const { service, audit } = await usedStores(context, config);
    return audit && (!service || (await localState(context)) !== "initialized");
  };
  const path = auditPath(config);
  if (!(await isLost()) || (await hasOnlyBegun({ path, keys: await context.keys() }))) return;
  // Another command at the same time may have finished the initialization since the store was looked at.
  if (await isLost()) throw lostStore(config, path);
}

/** Writes the configuration, unless the folder has one. Returns the name of the new file. */
async function writeConfiguration(folder: string): Promise<string | undefined> {
  if ((await findConfig({ from: folder, environment: "" })) !== undefined) return undefined;
  const path = join(folder, configFileNames[0]);
  try {
    await writeNewFile(path, configuration);
    return basename(path);
  } catch (error) {
    // Another command at the same time has written the same file.
    if (error instanceof KeywardError && error.code === "KEYRING_CONFLICT") return undefined;
    throw error;
  }
}

/** Makes the folder of the service, which only its owner can open, and which Git ignores. */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    if (systemCode(error) !== "EEXIST") {
      throw new CommandError("USAGE", `The folder ${folder} cannot be made (${systemCode(error)})`, {
        hint: "Make the folder yourself, so that only the user of the service can open it: mode 0700.",
      });
    }
    const status = await lstat(folder);
    if (!status.isDirectory() || (basename(folder) === folderName && (status.mode & 0o077) !== 0)) {
      throw new CommandError("USAGE", `Other users may open ${folder}, or it is no folder`, {
        hint: `If the folder is yours and has nothing that others need: \`chmod 700 ${folder}\`.`,
      });
    }
  }
  if (basename(folder) !== folderName) return;
  await ignoreAll(join(folder, ".gitignore"));
}

/** Makes the first keyring if there is none, and adds the stores of the service to the stores that the keyring lists. */
async function ensureKeyring(context: Context, config: Config): Promise<"created" | "kept"> {
  const keys = await context.keys();
  const isNew = await createKeyring(keys, context, config);
  const keyring = await keys.load({ signal: context.signal });
  const missing = gatewayStoreNames.filter((name) => !keyring.stores.includes(name));
  if (missing.length > 0) {
    const others = keyring.stores.length > 0 ? keyring.stores : config.storeNames;
    const names = [...new Set([...others, ...missing])];
    if (keys.save === undefined) {
      throw new CommandError("USAGE", "The keyring does not list the stores of the service, and cannot be saved", {
        hint: `Let the keyring list its stores at the source of the keys: ${names.join(", ")}.`,
      });
    }
    await keys.save(keyring.withStores(names), keyring);
  }
  return isNew ? "created" : "kept";
}

async function createKeyring(keys: KeyProvider, context: Context, config: Config): Promise<boolean> {
  if (keys.create === undefined || (await isLoaded(keys, context.signal))) return false;
  const { service, audit } = await usedStores(context, config);
  // Another command at the same time may have made the keyring since it was looked for.
  if ((service || audit) && !(await isLoaded(keys, context.signal))) {
    throw new CommandError(
      "USAGE",
      "There is no keyring, but the store of the service is encrypted under an earlier keyring",
      {
        hint: "Restore the keyring from a backup: `keyward keyring import <file>`. No other keyring can decrypt the store.",
      },
    );
  }
  try {
    await keys.create(Keyring.generate(new Date().toISOString().slice(0, 10)).withStores([...gatewayStoreNames]));
    return true;
  } catch (error) {
    // Another command at the same time has made the keyring.
    if (error instanceof KeywardError && error.code === "KEYRING_CONFLICT") return false;
    throw error;
  }
}

async function isLoaded(keys: KeyProvider, signal: AbortSignal): Promise<boolean> {
  try {
    await keys.load({ signal });
    return true;
  } catch (error) {
    // `create` refuses to replace an existing keyring, even a broken one.
    if (error instanceof KeywardError) return false;
    throw error;
  }
}
