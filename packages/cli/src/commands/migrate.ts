import {
  census,
  KeywardError,
  type KeywardErrorCode,
  type MigratedFormat,
  type MigrationReport,
  migrate,
  type ReencryptOptions,
  readKeyvJson,
  reencrypt,
  type UnreadRecords,
} from "@keyward/core";
import { encryptingUnauthenticated, formatsFrom } from "../configuration/foreign-formats.ts";
import { scopeMissing, usesScopes } from "../configuration/scope-use.ts";
import type { OpenStores, StoreOpening } from "../configuration/sources.ts";
import type { Context } from "../context.ts";
import { CommandError, ProblemsPrinted } from "../exit-codes.ts";
import { type ReencryptionResult, reencryptionResult } from "../results/reencryption-result.ts";
import { shownName, table } from "../terminal/output.ts";
import { adviceFor, adviceForForbiddenPlaintext } from "../terminal/record-advice.ts";
import { addByCode, formatNames, type JobCommandOptions, jobSettings } from "./reencryption-jobs.ts";

/** The maximum number of groups of unreadable records that a table shows for one store. */
const maxShownGroups = 20;

/** The options of `keyward migrate`. */
export interface MigrateCommandOptions extends JobCommandOptions {
  readonly from: readonly string[];
  readonly namespace: readonly string[];
  readonly encrypt: boolean;
  readonly encryptUnauthenticated: boolean;
  readonly removeExpired: boolean;
  readonly anyValue: boolean;
}

type Surveys = Readonly<Record<string, MigrationReport>>;

/**
 * Counts the records that each format can read. With `--encrypt`, then encrypts the records that a format can read.
 *
 * @throws CommandError `USAGE` for an invalid `--from` and a namespace without records; `NOT_CONFIRMED`; ProblemsPrinted if
 * some records are not encrypted afterwards.
 */
export async function migrateStores(context: Context, options: MigrateCommandOptions): Promise<void> {
  const opening = await openingFor(context, options);
  await context.withStores(
    async (_keys, stores, _listed, inner) => {
      const { namespace, removeExpired } = options;
      const settings: ReencryptOptions = {
        ...(await jobSettings(context, { stores, inner }, options, [
          ...formatNames(opening.accept ?? []),
          ...options.from,
          `any value: ${options.anyValue}`,
        ])),
        ...(namespace.length === 0 ? {} : { namespaces: namespace }),
        removeExpired,
      };
      await requireNamespaces(context, stores, namespace);
      const surveys: Record<string, MigrationReport> = Object.create(null);
      for (const [name, store] of Object.entries(stores)) {
        context.output.progress(`${name}: counting the records of each format`);
        surveys[name] = await migrate(store, { ...settings, dryRun: true });
      }
      if (!options.encrypt) return showSurveys(context, surveys);
      context.output.progress(surveyTable(surveys));
      await requireScope(context, inner, surveys);
      await encryptRecords(context, stores, surveys, settings);
    },
    undefined,
    opening,
  );
}

async function openingFor(context: Context, options: MigrateCommandOptions): Promise<StoreOpening> {
  const configured = (await context.told()).config?.settings.accept ?? [];
  const named = options.from.length > 0 ? await formatsFrom(options.from, context.env) : configured;
  if (named.length === 0 && options.encrypt) {
    throw new CommandError("USAGE", "No format of the existing records is named", {
      hint: "Run the command without --encrypt: it shows the forms of the records. Then name their formats with --from, or in `accept` of the configuration.",
    });
  }
  return {
    accept: options.encryptUnauthenticated ? named.map(encryptingUnauthenticated) : named,
    mayBeForeign: true,
    ...(options.anyValue ? {} : { decode: requireKeyvJson }),
  };
}

/** Throws for a value that an application could not read through Keyv, such as the result of a wrong format. */
function requireKeyvJson(value: string | Uint8Array): void {
  if (readKeyvJson(value) === undefined) throw new TypeError("not Keyv's JSON");
}

/**
 * Checks that each namespace has a record in a store. A misspelt name would look like one whose records are all encrypted.
 *
 * @throws CommandError `USAGE`.
 */
async function requireNamespaces(
  { output, signal }: Context,
  stores: OpenStores["stores"],
  namespaces: readonly string[],
): Promise<void> {
  if (namespaces.length === 0) return;
  const found = new Set<string>();
  for (const [name, store] of Object.entries(stores)) {
    output.progress(`${name}: counting the records of each namespace`);
    for (const namespace of (await census(store, { signal })).namespaces.keys()) found.add(namespace);
  }
  const missing = namespaces.filter((namespace) => !found.has(namespace));
  if (missing.length === 0) return;
  throw new CommandError("USAGE", `No store has a record ${ofNamespaces(missing)}`, {
    hint: "Correct `--namespace`. `keyward census --by namespace` lists the namespaces.",
  });
}

function ofNamespaces(namespaces: readonly string[]): string {
  const named = namespaces.filter((namespace) => namespace !== "").map(shownName);
  const parts = [
    ...(named.length === 0 ? [] : [`of the namespace${named.length === 1 ? "" : "s"} ${named.join(", ")}`]),
    ...(named.length < namespaces.length ? ["without a namespace"] : []),
  ];
  return parts.join(" and ");
}

/**
 * Checks that the application can read what the command encrypts. If the key that a record names cannot decrypt the record,
 * the record has another scope, or the application has other keys.
 *
 * @throws KeywardError `RECORDS_UNREADABLE`, `STORE_INVALID`.
 */
async function requireScope(context: Context, inner: OpenStores["inner"], surveys: Surveys): Promise<void> {
  for (const [name, { envelopes, unread }] of Object.entries(surveys)) {
    const scope = await context.scope(name);
    const mismatched = mismatchedIn(unread);
    if (mismatched > 0) {
      throw new KeywardError(
        "RECORDS_UNREADABLE",
        `Nothing was encrypted: ${recordsOf(mismatched)} of the store ${name} cannot be decrypted with the key whose id they name`,
        {
          hint:
            "Pass the scope of the application: `--scope <name>`, or set `scope` in the configuration. If the scope is right, " +
            "compare `--keys` with the keys of the application. To leave out records of another scope, choose the " +
            "namespaces: `--namespace <name>`.",
        },
      );
    }
    const store = inner[name];
    if (scope !== undefined || envelopes > 0 || store === undefined || context.mayBeEmpty(name)) continue;
    if (await usesScopes(store)) throw scopeMissing(name);
  }
}

function mismatchedIn(unread: readonly UnreadRecords[]): number {
  return sumOf(unread, ({ code, records }) => (code === "KEY_MISMATCH" ? records : 0));
}

/** Refuses stores without any record, because their sources are probably misspelt. */
function requireRecords(all: readonly MigrationReport[]): void {
  if (all.some(({ scanned }) => scanned > 0)) return;
  throw new CommandError("NO_RECORD", "The stores have no records", {
    hint: "Compare the source of each store with the source in the application: the path, host, database number and prefix. If the application keeps its records through another adapter, such as @keyv/redis, name this adapter in keyward.config.ts.",
  });
}

function showSurveys({ output }: Context, surveys: Surveys): void {
  const all = Object.values(surveys);
  requireRecords(all);
  const encryptable = sumOf(all, encryptableIn);
  const next: string[] = [];
  if (encryptable > 0 && all.some(({ unread }) => mismatchedIn(unread) > 0)) {
    next.push(
      `${recordsOf(encryptable)} can be encrypted; nothing was changed. First correct \`--scope\` or \`--keys\`, so that the ` +
        "records with KEY_MISMATCH can be read.",
    );
  } else if (encryptable > 0) {
    next.push(
      `${recordsOf(encryptable)} can be encrypted; nothing was changed. First add the formats to \`accept\` of the application, ` +
        "so that each process reads both forms, and back up the stores. Then run the same command with --encrypt.",
    );
  } else if (all.every(({ unread }) => unread.length === 0)) next.push("There is no record to encrypt.");
  if (sumOf(all, unauthenticatedIn) > 0) next.push(unauthenticatedAdvice);
  output.result([surveyTable(surveys), ...next].join("\n"), { dryRun: true, stores: storesOf(surveys, {}) });
  requireReadable(
    { output },
    all.flatMap(({ unread }) => unread),
  );
}

async function encryptRecords(
  context: Context,
  stores: OpenStores["stores"],
  surveys: Surveys,
  settings: ReencryptOptions,
): Promise<void> {
  const { output, signal, operator } = context;
  const all = Object.values(surveys);
  requireRecords(all);
  const encryptable = sumOf(all, encryptableIn);
  const expired = settings.removeExpired === true ? sumOf(all, expiredIn) : 0;
  if (encryptable + expired > 0) {
    const removed = expired > 0 ? `, and ${recordsOf(expired)} that count as expired would be removed` : "";
    await operator.confirm(
      `${recordsOf(encryptable)} would be encrypted in place${removed}. This cannot be undone, and an application without Keyward could not read the records afterwards.`,
    );
  }
  const reports: Record<string, ReencryptionResult> = Object.create(null);
  const lines: string[] = [];
  const shown = await context.recordProgress(stores);
  for (const [name, store] of Object.entries(stores)) {
    const report = await reencrypt(store, {
      ...settings,
      onProgress: (progress) => shown.show(name, progress),
    });
    shown.end();
    signal.throwIfAborted();
    reports[name] = reencryptionResult(report);
    const { reencrypted, primary, removed, unauthenticated } = report;
    const unreadable = Math.max(report.unreadable, unreadIn(surveys[name]));
    const others = [
      ...(removed > 0 ? [`${removed} expired ones removed`] : []),
      ...(unreadable > 0 ? [`${unreadable} unreadable and unchanged`] : []),
      ...(unauthenticated > 0 ? [`${unauthenticated} without authentication and unchanged`] : []),
    ];
    lines.push([`${name}: ${recordsOf(reencrypted)} encrypted under key "${primary}"`, ...others].join(", "));
  }
  const done = Object.values(reports);
  const results = storesOf(surveys, reports);
  const isComplete = Object.values(results).every(({ complete }) => complete);
  if (isComplete) {
    const { namespaces } = settings;
    const which = namespaces === undefined ? "" : ` ${ofNamespaces(namespaces)}`;
    lines.push(
      `Every record${which} is encrypted. If there was plaintext, refuse it from now on: \`keyward refuse-plaintext <namespace>\`. ` +
        (namespaces === undefined
          ? "Then remove the formats from `accept` of the application."
          : "Keep the formats in `accept` of the application until `keyward migrate` without `--namespace` finds no other record to encrypt."),
    );
  }
  if (done.some(({ unauthenticated }) => unauthenticated > 0)) lines.push(unauthenticatedAdvice);
  output.result(lines.join("\n"), { dryRun: false, stores: results });
  // The survey has decrypted every record, and the encryption only those that are not under the primary.
  const surveyed = Object.values(surveys).flatMap(({ unread }) => unread);
  requireReadable(context, surveyed.length > 0 ? surveyed : done.flatMap(({ unreadableGroups }) => unreadableGroups));
  if (!isComplete) throw new ProblemsPrinted();
}

const unauthenticatedAdvice =
  "Records of a format that cannot detect a wrong key are left as they are. Read some of them with the old key in the " +
  "application first. If their values are right, add --encrypt-unauthenticated.";

/** Prints what to do about records that cannot be read, and then throws. */
function requireReadable(
  { output }: Pick<Context, "output">,
  groups: readonly {
    readonly code: KeywardErrorCode;
    readonly records: number;
    readonly plaintextForbidden?: boolean;
  }[],
): void {
  if (groups.length === 0) return;
  const [forbidden, others] = [true, false].map((isForbidden) =>
    groups.filter(({ plaintextForbidden = false }) => plaintextForbidden === isForbidden),
  );
  const counts = new Map<KeywardErrorCode, number>();
  addByCode(counts, others ?? []);
  const plaintext = sumOf(forbidden ?? [], ({ records }) => records);
  const advice = [
    ...(counts.size > 0 ? [adviceFor(counts)] : []),
    ...(plaintext > 0 ? [adviceForForbiddenPlaintext(plaintext)] : []),
  ];
  output.problem(
    new KeywardError("RECORDS_UNREADABLE", "Some records cannot be read, and are unchanged", {
      hint: advice.join("\n"),
    }),
  );
  throw new ProblemsPrinted();
}

function surveyTable(surveys: Surveys): string {
  const rows = Object.entries(surveys).flatMap(([store, { scanned, envelopes, formats, unread }]) => {
    const shown = unread.slice(0, maxShownGroups);
    const left = unread.slice(maxShownGroups);
    return [
      ...(scanned === 0 ? [[store, "no records", "0", ""]] : []),
      ...(envelopes > 0 ? [[store, "encrypted by Keyward", String(envelopes), ""]] : []),
      ...formats.map((format) => [store, format.format, String(format.records), noteOn(format)]),
      ...shown.map((group) => [store, `UNREADABLE: ${group.shape}`, String(group.records), noteOnUnread(group)]),
      ...(left.length > 0
        ? [[store, `UNREADABLE: ${left.length} other forms`, String(sumOf(left, ({ records }) => records)), ""]]
        : []),
    ];
  });
  return table([["store", "records", "count", ""], ...rows]);
}

function noteOn({ expired, encryptable }: MigratedFormat): string {
  return [
    ...(expired > 0 ? [`${expired} expired`] : []),
    ...(encryptable ? [] : ["left as they are: this format cannot detect a wrong key"]),
  ].join(", ");
}

function noteOnUnread({ shape, code, plaintextForbidden }: UnreadRecords): string {
  const flag = code === "RECORD_NOT_SEALED" ? suggestedFor(shape) : undefined;
  const isPlaintext = flag === undefined || flag.startsWith("--from plaintext");
  if (plaintextForbidden && isPlaintext) return `${code}, the keyring forbids plaintext in this namespace`;
  return flag === undefined ? code : `${code}, may be ${flag}`;
}

/** Returns the flags that may read records of a form; `undefined` if no format is likely. */
function suggestedFor(shape: string): string | undefined {
  const suggestions: readonly (readonly [beginning: RegExp, flags: string])[] = [
    [/^iron$/, "--from iron"],
    [/^Fernet/, "--from fernet"],
    [/^base64 of Salted__/, "--from cryptojs or openssl"],
    [/^bytes that begin with Salted__/, "--from openssl"],
    [/^compact JWE$/, "--from jwe"],
    [/\(Laravel\)$/, "--from laravel"],
    [/^JSON object \{ (?:expires, )?value \}$/, "--from plaintext"],
    [/^JSON (?:list$|object.* other fields? \}$)/, "--from plaintext:json"],
    [/^base64(?:url)?\(bytes\)$/, "--from keyv-encrypt-node or secretbox"],
    [/^JSON object|[:.$|*~]/, "aesGcm or aesCbc in the configuration"],
  ];
  return suggestions.find(([beginning]) => beginning.test(shape))?.[1];
}

/** The records of a store and what was done to them, as `--json` prints them. */
interface MigratedStore {
  readonly scanned: number;
  readonly envelopes: number;
  readonly formats: readonly MigratedFormat[];
  readonly unreadableShapes: readonly Omit<UnreadRecords, "examples">[];
  /** `null` if the command only counts. */
  readonly reencryption: ReencryptionResult | null;
  readonly complete: boolean;
}

function storesOf(
  surveys: Surveys,
  reports: Readonly<Record<string, ReencryptionResult>>,
): Readonly<Record<string, MigratedStore>> {
  return Object.fromEntries(
    Object.entries(surveys).map(([name, { scanned, envelopes, formats, unread }]) => {
      const reencryption = reports[name] ?? null;
      const unreadableShapes = unread.map(({ shape, code, plaintextForbidden, records }) => ({
        shape,
        code,
        plaintextForbidden,
        records,
      }));
      const complete = reencryption?.complete === true && unread.length === 0;
      return [name, { scanned, envelopes, formats: formats.map(formatOf), unreadableShapes, reencryption, complete }];
    }),
  );
}

function formatOf({ format, records, expired, encryptable }: MigratedFormat): MigratedFormat {
  return { format, records, expired, encryptable };
}

/**
 * Returns how many records can be encrypted. Expired records of an encrypted format do not count: they stay unchanged,
 * because * an option of the format may be wrong.
 */
function encryptableIn({ formats }: MigrationReport): number {
  return sumOf(formats, ({ format, records, expired, encryptable }) =>
    encryptable ? records - (format === "plaintext" ? 0 : expired) : 0,
  );
}

function unreadIn(survey: MigrationReport | undefined): number {
  return sumOf(survey?.unread ?? [], ({ records }) => records);
}

function unauthenticatedIn({ formats }: MigrationReport): number {
  return sumOf(formats, ({ records, encryptable }) => (encryptable ? 0 : records));
}

function expiredIn({ formats }: MigrationReport): number {
  return sumOf(formats, ({ expired, encryptable }) => (encryptable ? expired : 0));
}

function sumOf<Item>(items: readonly Item[], count: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + count(item), 0);
}

function recordsOf(count: number): string {
  return count === 1 ? "1 record" : `${count} records`;
}
