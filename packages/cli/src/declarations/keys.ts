import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";
import type { Output } from "../terminal/output.ts";
import { retireOptions, waitOptions } from "./rotation.ts";

/** Declares the commands that make keys, and that show and change the keyring. */
export function declareKeys(program: Command, context: OpenContext, output: () => Promise<Output>): void {
  program
    .command("keygen")
    .description("Make a key, and print it or write it to a new file.")
    .addOption(
      new Option("--format <format>", "the form of the key").choices(["base64", "hex", "keyring"]).default("base64"),
    )
    .option("--id <id>", "with the format keyring: the id of the key (default: derived from the key)")
    .option("--out <file>", "write to this new file, which only its owner can read")
    .addHelpText(
      "after",
      "\nExamples:\n  keyward keygen\n  keyward keygen --format keyring --id 2026-12 --out production.keyring",
    )
    .action(async (options) => await (await import("../commands/keygen.ts")).keygen(await output(), options));

  const keyring = program.command("keyring").description("Show, create, change, export or import the keyring.");
  keyring
    .command("show")
    .description("Show the ids, the statuses and the ages of the keys, and never a key.")
    .action(async () => await (await import("../commands/keyring.ts")).showKeyring(await context()));
  keyring
    .command("create")
    .description("Save the first keyring, with one new key.")
    .option("--id <id>", "the id of the key (default: the date)")
    .option("--stores <names>", "the names of the stores that use the keyring, separated by commas")
    .action(async (options) => await (await import("../commands/keyring.ts")).createKeyring(await context(), options));

  keyring
    .command("stores <names...>")
    .description("Set which stores the keyring lists. Rotations need every listed store.")
    .action(
      async (names: readonly string[]) =>
        await (await import("../commands/keyring.ts")).listStores(await context(), names),
    );
  keyring
    .command("add")
    .description("Add a new key, which is not the primary. `keyward rotate --new-key <id>` continues with it.")
    .option("--id <id>", "the id of the key (default: the date and six random characters)")
    .action(async (options) => await (await import("../commands/keyring.ts")).addKey(await context(), options));
  waitOptions(
    keyring
      .command("promote <id>")
      .description(
        "Make a key of the keyring the primary, after every replica has loaded the key. Begins a rotation to it.",
      ),
  ).action(
    async (id: string, options) =>
      await (await import("../commands/keyring.ts")).promoteKey(await context(), id, options),
  );
  keyring
    .command("enable <id>")
    .description("Enable a disabled key, if records still need it. Not for a compromised key.")
    .action(async (id: string) => await (await import("../commands/keyring.ts")).enableKey(await context(), id));
  retireOptions(
    keyring
      .command("disable <id>")
      .description("Disable a key, after checking that no record needs it. The same as `keyward retire`."),
  ).action(
    async (id: string, options) =>
      await (await import("../commands/records.ts")).retire(await context(), id, { ...options, remove: false }),
  );
  retireOptions(
    keyring
      .command("remove <id>")
      .description(
        "Remove a disabled key, after checking that no record needs it. The same as `keyward retire --remove`.",
      ),
  ).action(
    async (id: string, options) =>
      await (await import("../commands/records.ts")).retire(await context(), id, { ...options, remove: true }),
  );

  keyring
    .command("export <file>")
    .description("Write a backup of the whole keyring into a new file, which only its owner can read.")
    .option("--passphrase", "encrypt the backup under a passphrase, which is asked for twice", false)
    .option("--passphrase-file <file>", "encrypt the backup under the passphrase in the first line of this file")
    .addHelpText("after", "\nExamples:\n  keyward keyring export --passphrase 2026-11.backup")
    .action(
      async (file: string, options) =>
        await (await import("../commands/keyring-backup.ts")).exportToFile(await context(), file, options),
    );
  keyring
    .command("import <file>")
    .description("Restore a backup, or add the keys of a backup that the keyring lacks. Never removes a key.")
    .option("--passphrase-file <file>", "a file whose first line is the passphrase (default: asks for the passphrase)")
    .action(
      async (file: string, options) =>
        await (await import("../commands/keyring-backup.ts")).importFromFile(await context(), file, options),
    );
}
