import { fileCheckpoint, type KeywardErrorCode, type ReencryptOptions } from "@keyward/core";
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
 * @throws CommandError `USAGE` for a checkpoint of several stores, because each store needs a checkpoint of its own.
 */
export function jobSettings(
  { signal }: Context,
  stores: OpenStores["stores"],
  { maxPerSecond, concurrency, checkpoint }: JobCommandOptions,
): ReencryptOptions {
  if (checkpoint !== undefined && Object.keys(stores).length > 1) {
    throw new CommandError("USAGE", "A checkpoint is for one store, and this command has several", {
      hint: `Run the command once for each store, with a checkpoint of its own: \`--store ${Object.keys(stores)[0]}\`.`,
    });
  }
  return {
    signal,
    ...(maxPerSecond === undefined ? {} : { maxPerSecond }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(checkpoint === undefined ? {} : { checkpoint: fileCheckpoint(checkpoint) }),
  };
}

/** Adds the numbers of records in some groups to the counts by code. */
export function addByCode(
  counts: Map<KeywardErrorCode, number>,
  groups: readonly { readonly code: KeywardErrorCode; readonly records: number }[],
): void {
  for (const { code, records } of groups) counts.set(code, (counts.get(code) ?? 0) + records);
}
