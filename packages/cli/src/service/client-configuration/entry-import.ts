import { AdminApiError, type AdminClient, type Injection, type Secret } from "@keyward/admin/client";
import { CommandError, Interrupted } from "../../exit-codes.ts";
import { type ErrorResult, errorResult } from "../../terminal/output.ts";
import { allowanceNote } from "../call-address.ts";
import { shownInjection } from "../injection-flags.ts";
import type { ClientEntry, RemoteEntry } from "./client-entries.ts";
import type { ClientHeader } from "./headers.ts";

/** The result of the import of one server, as `--json` prints it. Contains no value of a secret. */
export interface ImportedServer {
  /** The name in the file. */
  readonly name: string;
  /** The slug of the server; `null` if the server has none. */
  readonly slug: string | null;
  /** `gateway` for an entry that points at the gateway already, `unknown` if the service stopped answering. */
  readonly outcome: "added" | "present" | "gateway" | "not-imported" | "unknown";
  readonly headers: ImportedHeader[];
  /** Why the server was not imported; `null` if it was. */
  readonly error: ErrorResult | null;
}

/** The result of the import of one header, as `--json` prints it. Contains no value of a secret. */
export interface ImportedHeader {
  /** The name of the header; `null` for a field or a name that is not shown. */
  readonly header: string | null;
  /** The name of the secret; `null` if there is none. */
  readonly secret: string | null;
  readonly outcome: "set" | "replaced" | "kept" | "skipped" | "not-set" | "unknown";
  /** The names of the environment variables whose values are in the value of the header. */
  readonly variables: readonly string[];
  /** For people: the rule, or why the header was skipped. */
  readonly note: string;
  /** Why the secret was not set; `null` if it was set, or if no secret is needed. */
  readonly error: ErrorResult | null;
}

/** The secrets and the forwarded headers that a server already has. */
interface Existing {
  readonly secrets: readonly Secret[];
  readonly forwardHeaders: readonly string[];
}

/** Options of {@link EntryImport}. */
export interface ImportOptions {
  /** True to change nothing, and only report what an import would do. */
  readonly dryRun: boolean;
  /** True to replace the values of existing secrets by the values in the file. */
  readonly replace: boolean;
  /** The URL of the gateway; `null` if the service has none. */
  readonly callUrl: string | null;
  /** Called with a sentence that the operator must see. */
  readonly notice: (line: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Imports the entries of a client's configuration through the admin API. Continues with the next entry if the service refuses
 * one.
 */
export class EntryImport {
  readonly #client: AdminClient;
  readonly #options: ImportOptions;
  /** The results of the entries that were handled so far. */
  readonly servers: ImportedServer[] = [];

  constructor(client: AdminClient, options: ImportOptions) {
    this.#client = client;
    this.#options = options;
  }

  /**
   * Imports all entries.
   *
   * @throws the error that stopped the import. `servers` then has a result for each entry, even if it was not imported.
   */
  async run(entries: readonly ClientEntry[]): Promise<void> {
    try {
      for (const entry of entries) {
        this.#options.signal.throwIfAborted();
        await this.#import(entry);
      }
    } catch (error) {
      this.#leave(entries, error);
      throw error;
    }
  }

  async #import(entry: ClientEntry): Promise<void> {
    if (entry.kind === "left") {
      this.#begin(entry, "not-imported", errorResult(unfit(entry.reason, entry.hint)));
      return;
    }
    if (isOfGateway(entry.url, this.#options.callUrl)) {
      this.#begin(entry, "gateway");
      return;
    }
    try {
      const existing = await this.#existing(entry);
      if (existing === undefined) await this.#add(entry);
      const server = this.#begin(entry, existing === undefined ? "added" : "present");
      for (const variable of entry.urlVariables) this.#options.notice(urlNote(entry.slug, variable));
      for (const header of entry.headers) await this.#importHeader(server, entry.slug, header, existing);
    } catch (error) {
      if (!isOfOne(error) && !(error instanceof CommandError)) throw error;
      this.#begin(entry, "not-imported", errorResult(error));
    }
  }

  #begin(entry: ClientEntry, outcome: ImportedServer["outcome"], error: ErrorResult | null = null): ImportedServer {
    const isNamed = entry.kind === "remote" && outcome !== "gateway";
    const server = { name: entry.name, slug: isNamed ? entry.slug : null, outcome, headers: [], error };
    this.servers.push(server);
    return server;
  }

  /** Returns the server with the slug and the URL of an entry; `undefined` if there is no such server. */
  async #existing({ slug, url }: RemoteEntry): Promise<Existing | undefined> {
    try {
      const server = await this.#client.getServer(slug);
      if (server.kind !== "mcp" || server.url !== new URL(url).href.replace(/\/$/, "")) {
        throw unfit(
          `The workspace has another server with the slug ${slug}`,
          `Rename the entry, or compare the two: \`keyward servers show ${slug}\`.`,
        );
      }
      return { secrets: (await this.#client.listSecrets(slug)).secrets, forwardHeaders: server.forwardHeaders };
    } catch (error) {
      if (error instanceof AdminApiError && error.code === "SERVER_NOT_FOUND") return undefined;
      throw error;
    }
  }

  async #add({ slug, url }: RemoteEntry): Promise<void> {
    if (!this.#options.dryRun) await this.#client.createServer({ slug, url, kind: "mcp" });
    const note = await allowanceNote(url);
    if (note !== undefined) this.#options.notice(`${slug}: ${note}`);
  }

  async #importHeader(
    { headers }: ImportedServer,
    slug: string,
    given: ClientHeader,
    { secrets, forwardHeaders }: Existing = { secrets: [], forwardHeaders: [] },
  ): Promise<void> {
    const { header } = given;
    const row = { header, secret: null, variables: [], note: "", error: null } as const;
    if (given.kind === "skipped") {
      headers.push({ ...row, outcome: "skipped", note: given.reason });
      return;
    }
    if (header !== null && forwardHeaders.includes(header.toLowerCase())) {
      headers.push({ ...row, outcome: "skipped", note: "The server gets the header of the caller" });
      return;
    }
    if (given.kind === "refused") {
      const hint = given.hint.replaceAll("<server>", slug).replaceAll("<name>", header ?? "<name>");
      headers.push({ ...row, outcome: "not-set", error: errorResult(unfit(given.reason, hint)) });
      return;
    }
    const { injection } = given;
    const existing =
      secrets.find((one) => headerOf(one.injection) === headerOf(injection)) ?? secretOf(secrets, given.header);
    const secret = existing?.name ?? given.header;
    const ofSecret = { ...row, secret, note: shownInjection(injection) };
    if (existing !== undefined && !(this.#options.replace && given.kind === "secret")) {
      const { unusable } = existing;
      const error = unusable === null ? null : errorResult(unusableSecret(slug, secret, unusable));
      headers.push({ ...ofSecret, outcome: error === null ? "kept" : "not-set", error });
      return;
    }
    if (given.kind === "unset") {
      const hint = `Set the value: \`${commandFor(slug, secret, injection)}\`.`;
      headers.push({ ...ofSecret, outcome: "not-set", error: errorResult(unfit(given.reason, hint)) });
      return;
    }
    const { value, variables } = given;
    try {
      this.#options.signal.throwIfAborted();
      if (!this.#options.dryRun) {
        const { warnings } = await this.#client.setSecret(slug, { name: secret, value, injection });
        for (const warning of warnings) this.#options.notice(`${slug}: ${warning}`);
      }
      headers.push({ ...ofSecret, variables, outcome: existing === undefined ? "set" : "replaced" });
    } catch (error) {
      if (!isOfOne(error)) throw error;
      headers.push({ ...ofSecret, outcome: "not-set", error: errorResult(error) });
    }
  }

  /** Adds to `servers` a result for each entry and header that an error kept from being imported. */
  #leave(entries: readonly ClientEntry[], error: unknown): void {
    const isStopped = error instanceof Interrupted;
    const reason = errorResult(isStopped ? stopped : error);
    // The service may have carried out the last attempt, but nothing after it.
    const isUndone = isStopped || this.#options.dryRun || isRefusal(error);
    let outcome: "unknown" | "not-imported" = isUndone ? "not-imported" : "unknown";
    const begun = this.servers.at(-1);
    const entry = entries[this.servers.length - 1];
    if (begun !== undefined && entry?.kind === "remote" && begun.error === null && begun.outcome !== "gateway") {
      for (const { header } of entry.headers.slice(begun.headers.length)) {
        const left = outcome === "unknown" ? "unknown" : "not-set";
        begun.headers.push({ header, secret: null, outcome: left, variables: [], note: "", error: reason });
        outcome = "not-imported";
      }
    }
    for (const one of entries.slice(this.servers.length)) {
      this.#begin(one, outcome, reason);
      outcome = "not-imported";
    }
  }
}

const stopped = new CommandError("INTERRUPTED", "The command was stopped", {
  hint: "Run the same command again. It leaves what exists as it is.",
});

function unfit(reason: string, hint: string): CommandError {
  return new CommandError("USAGE", reason, { hint });
}

function urlNote(slug: string, variable: string): string {
  return `${slug}: the URL has the value of ${variable}. Admins can see the URL, so it must have no credential.`;
}

function unusableSecret(slug: string, name: string, unusable: NonNullable<Secret["unusable"]>): CommandError {
  const why = unusable === "expired" ? "has expired" : "was set for another origin";
  const hint = `Set a new value: \`keyward secrets set ${slug} ${name}\`. Or set the value of the file with \`--replace\`.`;
  return unfit(`The server has a secret for this header, whose value ${why}`, hint);
}

/** Returns whether an error concerns only one server or one secret, so that the others can be imported. */
function isOfOne(error: unknown): error is AdminApiError {
  const status = error instanceof AdminApiError ? error.status : undefined;
  return status !== undefined && status >= 400 && status < 500 && ![401, 403, 429].includes(status);
}

/** Returns whether an error proves that the service has changed nothing. */
function isRefusal(error: unknown): boolean {
  return error instanceof AdminApiError && error.status !== undefined && error.status < 500;
}

function isOfGateway(url: string, callUrl: string | null): boolean {
  if (callUrl === null) return false;
  const { href } = new URL(url);
  const base = new URL(callUrl).href.replace(/\/$/, "");
  return href.startsWith(`${base}/s/`) || href.replace(/\/$/, "") === `${base}/mcp`;
}

function secretOf(secrets: readonly Secret[], name: string): Secret | undefined {
  return secrets.find((one) => one.name === name);
}

function headerOf(rule: Injection): string {
  return ("header" in rule ? rule.header : "Authorization").toLowerCase();
}

/** Returns the command that sets a secret with a rule. */
function commandFor(slug: string, name: string, rule: Injection): string {
  return ["keyward secrets set", slug, name, ...flagsOf(rule)].join(" ");
}

function flagsOf(rule: Injection): readonly string[] {
  switch (rule.kind) {
    case "bearer":
    case "basic":
      return [`--${rule.kind}`];
    case "header":
      return ["--header", quoted(rule.header)];
    case "template":
      return ["--template", quoted(rule.template), "--header", quoted(rule.header)];
  }
}

function quoted(word: string): string {
  return /^[\w.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
