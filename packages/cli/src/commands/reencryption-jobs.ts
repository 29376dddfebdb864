import { hash } from "node:crypto";
import {
  type ForeignFormat,
  fileCheckpoint,
  type KeywardErrorCode,
  type ReencryptOptions,
  type WrappableStore,
} from "@keyward/core";
import type { OpenStores } from "../configuration/sources.ts";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** The options of a command that looks at every record of its stores. */
export interface JobCommandOptions {
  readonly maxPerSecond?: number;
  readonly concurrency?: number;
  readonly checkpoint?: string;
}

/**
 * Returns the settings of a re-encryption from the flags of its command.
 *
 * @param formats texts for all that the job depends on besides the store, such as the names of the formats. A checkpoint of
 * a job with different texts is refused.
 * @throws CommandError `USAGE` for a checkpoint of several stores, because each store needs a checkpoint of its own.
 */
export async function jobSettings(
  context: Context,
  { stores, inner }: Pick<OpenStores, "stores" | "inner">,
  { maxPerSecond, concurrency, checkpoint }: JobCommandOptions,
  formats: readonly string[],
): Promise<ReencryptOptions> {
  const { signal } = context;
  const [name = "", ...others] = Object.keys(stores);
  if (checkpoint !== undefined && others.length > 0) {
    throw new CommandError("USAGE", "A checkpoint is for one store, and this command has several", {
      hint: `Run the command once for each store, with a checkpoint of its own: \`--store ${name}\`.`,
    });
  }
  return {
    signal,
    ...(maxPerSecond === undefined ? {} : { maxPerSecond }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(checkpoint === undefined
      ? {}
      : { checkpoint: fileCheckpoint(checkpoint, { job: await jobName(context, name, inner[name], formats) }) }),
  };
}

/** Returns a text for each format of a job, with which a checkpoint detects that the formats were changed. */
export function formatNames(formats: readonly ForeignFormat[]): readonly string[] {
  return formats.map(({ name = "foreign", encryptUnauthenticated = false }) => `${name} ${encryptUnauthenticated}`);
}

/** Returns a hash that identifies a job: by the name and the source of its store, its scope and its formats. */
async function jobName(
  context: Context,
  name: string,
  store: WrappableStore | undefined,
  formats: readonly string[],
): Promise<string> {
  const scope = await context.scope(name);
  // A store that a function of the configuration makes has no source. A SQLite store describes itself by its absolute path.
  const described: unknown = store === undefined ? "" : (Reflect.get(store, "description") ?? store.constructor.name);
  const source = await context.sourceOf(name);
  const place = source === "" || source.startsWith("sqlite:") ? String(described) : withoutCredentials(source);
  const parts = [name, place, typeof scope === "function" ? [] : (scope ?? null), formats];
  return hash("sha256", JSON.stringify(parts));
}

/** Returns a source without its user name and password, because a password could be guessed from the hash. */
function withoutCredentials(source: string): string {
  if (!URL.canParse(source)) return source;
  const url = new URL(source);
  url.username = "";
  url.password = "";
  return url.href;
}

/** Adds the number of records in each group to the count of its error code. */
export function addByCode(
  counts: Map<KeywardErrorCode, number>,
  groups: readonly { readonly code: KeywardErrorCode; readonly records: number }[],
): void {
  for (const { code, records } of groups) counts.set(code, (counts.get(code) ?? 0) + records);
}
