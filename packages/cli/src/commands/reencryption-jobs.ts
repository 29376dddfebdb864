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
 * Returns the settings of a re-encryption that flags name.
 *
 * @param formats what the result of the job depends on besides the store, such as the names of the formats. A checkpoint of
 * a job with others is refused.
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

/** Returns the text that a checkpoint has for the formats of a job. */
export function formatNames(formats: readonly ForeignFormat[]): readonly string[] {
  return formats.map(({ name = "foreign", encryptUnauthenticated = false }) => `${name} ${encryptUnauthenticated}`);
}

/** Returns digits that differ for a store of another name or place, another scope and other formats. */
async function jobName(
  context: Context,
  name: string,
  store: WrappableStore | undefined,
  formats: readonly string[],
): Promise<string> {
  const scope = await context.scope(name);
  // A store that a function of the configuration makes has no source, and a SQLite store says its absolute path.
  const described: unknown = store === undefined ? "" : (Reflect.get(store, "description") ?? store.constructor.name);
  const source = await context.sourceOf(name);
  const place = source === "" || source.startsWith("sqlite:") ? String(described) : withoutCredentials(source);
  const parts = [name, place, typeof scope === "function" ? [] : (scope ?? null), formats];
  return hash("sha256", JSON.stringify(parts));
}

/** Returns a source without what may be secret, because a password could be guessed from its hash. */
function withoutCredentials(source: string): string {
  if (!URL.canParse(source)) return source;
  const url = new URL(source);
  url.username = "";
  url.password = "";
  return url.href;
}

/** Adds the numbers of records in some groups to the counts by code. */
export function addByCode(
  counts: Map<KeywardErrorCode, number>,
  groups: readonly { readonly code: KeywardErrorCode; readonly records: number }[],
): void {
  for (const { code, records } of groups) counts.set(code, (counts.get(code) ?? 0) + records);
}
