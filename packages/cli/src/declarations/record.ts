import { type Command, InvalidArgumentError } from "commander";
import type { OpenContext } from "../context.ts";
import { readDuration } from "../terminal/durations.ts";

/** Declares the commands about one record. */
export function declareRecord(program: Command, context: OpenContext): void {
  inNamespace(
    program
      .command("inspect <key>")
      .description("Show what can be read of a record without a key: its key id, form and size. Never shows the value.")
      .addHelpText("after", "\nExample:\n  keyward inspect session:42 --namespace sessions --store sessions"),
  ).action(
    async (key: string, options) =>
      await (await import("../commands/inspect.ts")).inspect(await context(), key, options),
  );

  const record = program.command("record").description("Read, write or delete one record, as the application does.");
  inNamespace(
    record
      .command("get <key>")
      .description("Decrypt a record, and print its value as JSON. Bytes are printed in base64."),
  ).action(
    async (key: string, options) =>
      await (await import("../commands/record.ts")).getRecord(await context(), key, options),
  );
  inNamespace(
    record
      .command("put <key>")
      .description("Encrypt the value on stdin, which is JSON, and write the record. To overwrite a record, add --yes.")
      .option("--text", "the value on stdin is a text, and not JSON", false)
      .option("--ttl <duration>", "how long the record lives (default: it never expires)", readLifetime)
      .addHelpText("after", "\nExample:\n  keyward record put session:42 --namespace sessions --ttl 1h < session.json"),
  ).action(
    async (key: string, options) =>
      await (await import("../commands/record.ts")).putRecord(await context(), key, options),
  );
  inNamespace(record.command("delete <key>").description("Delete a record, also one that cannot be decrypted.")).action(
    async (key: string, options) =>
      await (await import("../commands/record.ts")).deleteRecord(await context(), key, options),
  );
}

/** Reads how long a record lives. Keyv would write a record with a duration of 0 as one that never expires. */
function readLifetime(text: string): number {
  const lifetimeMs = readDuration(text);
  if (lifetimeMs > 0) return lifetimeMs;
  throw new InvalidArgumentError(
    "The duration must be longer than 0. To remove a record, use `keyward record delete`.",
  );
}

function inNamespace(command: Command): Command {
  return command.option("--namespace <name>", "the namespace of the record (default: no namespace)");
}
