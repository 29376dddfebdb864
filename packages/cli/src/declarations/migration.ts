import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { collect } from "./arguments.ts";
import { jobOptions } from "./records.ts";

/** Declares the commands that encrypt the records which an application wrote before it used Keyward. */
export function declareMigration(program: Command, context: OpenContext): void {
  jobOptions(
    program
      .command("migrate")
      .description("Count the records that Keyward did not encrypt, by their format. With --encrypt, encrypt them.")
      .addOption(
        new Option(
          "--from <format[=old key]>",
          "a format of the records, and the file of its old key, or env:NAME for an environment variable; repeat it",
        )
          .argParser(collect)
          .default([], "`accept` of the configuration"),
      )
      .option("--encrypt", "encrypt the records that a format reads, which cannot be undone", false)
      .option("--encrypt-unauthenticated", "also encrypt records of formats that cannot detect a wrong key", false)
      .option("--remove-expired", "remove records that have expired", false)
      .option("--any-value", "also encrypt values that are not the JSON of Keyv", false)
      .addOption(
        new Option("--namespace <name>", "only the records of this namespace; repeat it for each namespace")
          .argParser(collect)
          .default([], "all"),
      ),
  )
    .addHelpText(
      "after",
      `
Formats: plaintext, keyv-encrypt-node, fernet, laravel, iron, cryptojs, openssl, jwe, secretbox. After a colon, add what
the application encrypted: fernet:json. List any other format in \`accept\` of keyward.config.ts, such as aesGcm or aesCbc.

Examples:
  keyward migrate --from plaintext
  keyward migrate --from fernet:json=current.key --from fernet:json=former.key
  keyward migrate --from laravel=env:APP_KEY --encrypt`,
    )
    .action(async (options) => await (await import("../commands/migrate.ts")).migrateStores(await context(), options));
  program
    .command("refuse-plaintext <namespace>")
    .description("Refuse plaintext in a namespace from now on, after every record of the namespace is encrypted.")
    .action(
      async (namespace: string) =>
        await (await import("../commands/refuse-plaintext.ts")).refusePlaintext(await context(), namespace),
    );
}
