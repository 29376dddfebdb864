import type { RecordAddress } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";

/** The options of a command about one record. */
export interface AddressOptions {
  readonly namespace?: string;
}

/**
 * The names of the areas whose records belong to Keyward: the namespace of the secrets service, and the mark of the
 * reserved space in Redis. Stores that join a namespace and a key, such as those of `@keyv/redis`, may have a record of
 * these areas under another address, so an address may not contain one of the names.
 */
const closedAreas = ["keyward-service", "%reserved"] as const;

/** The texts that stores put between a namespace and a key: nothing, ":" or "::", which is the default of `@keyv/redis`. */
const separators = ["", ":", "::"] as const;

/**
 * Returns the address of a record.
 *
 * @throws CommandError `USAGE` for an empty key.
 */
export function addressOf(key: string, { namespace = "" }: AddressOptions): RecordAddress {
  if (key !== "") return { namespace, key };
  throw new CommandError("USAGE", "The key of the record is empty", { hint: "Pass the key of a record." });
}

/**
 * Returns the address of a record that a command decrypts, writes or deletes, unless it may belong to Keyward itself.
 *
 * @throws CommandError `USAGE` for an empty key, and for an address that may belong to a record of Keyward itself.
 */
export function openAddressOf(key: string, options: AddressOptions): RecordAddress {
  const address = addressOf(key, options);
  const joined = separators.map((separator) => address.namespace + separator + address.key);
  if (!closedAreas.some((area) => joined.some((text) => text.includes(area)))) return address;
  throw new CommandError(
    "USAGE",
    "The address may belong to a record of Keyward's secrets service or of Keyward itself",
    {
      hint: "Use the commands for secrets. `keyward inspect` shows the header of such a record.",
    },
  );
}

/** Returns the error for an address without a record. */
export function noRecord(): CommandError {
  return new CommandError("NO_RECORD", "The store has no record at this address", {
    hint: "Compare the key, `--namespace` and `--store` with those of the application. The record may have expired.",
  });
}
