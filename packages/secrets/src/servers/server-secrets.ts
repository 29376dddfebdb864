import { LastUses } from "../access/last-uses.ts";
import { maxSecretsOfServer, weakBelowBytes } from "../fields.ts";
import type { ChangeCondition, InjectionRule, SecretChange, SecretInfo, ServerInfo } from "../model.ts";
import { newId } from "../records/ids.ts";
import { serverKey, usedKey, valueKey } from "../records/record-keys.ts";
import { type SecretRecord, type ServerRecord, serverRecord } from "../records/server-record.ts";
import type { ValueRecord } from "../records/value-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision } from "../store/service-store.ts";
import { headerOf, requireRule, warningsOf } from "./injection-rule.ts";
import { isPair, requirePair } from "./secret-value.ts";
import {
  changeServer,
  lookedAfterMs,
  removeGarbage,
  requireServer,
  revisionChanged,
  type ServerAddress,
  serverNotFound,
} from "./server-changes.ts";
import { originOf } from "./server-url.ts";
import { serverInfo } from "./servers.ts";

/** A new value for a secret, after its fields were checked. */
export interface CheckedSecret {
  readonly name: string;
  /** A value that `requireSecretValue` returned. */
  readonly value: string;
  /** `undefined` to keep the rule of the secret. */
  readonly rule: InjectionRule | undefined;
  readonly expires: number | undefined;
  readonly redacted: boolean;
  readonly setBy: string;
  /** The origin that the server must have; `undefined` for any. */
  readonly expectedOrigin: string | undefined;
}

// Another process may discard a new value as abandoned. Then this process tries again with a new number.
const maxAttempts = 4;
const maxPending = 100;
/** The largest number of former values to delete. More are left only if the store refuses to delete them. */
const maxGarbage = 500;

/** The secrets of servers: what is known about them in the record of their server, and each value in its own record. */
export class ServerSecrets {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Sets a secret. Calls use the former value until the last step. After a crash, the secret has either the former or
   * the new value, and the sweep deletes the other.
   *
   * @throws SecretsError `FIELD_INVALID`, `ORIGIN_CHANGED`, `RULE_CONFLICT`, `LIMIT_REACHED`; the errors of
   * {@link changeServer}.
   */
  async set(address: ServerAddress, secret: CheckedSecret, condition: ChangeCondition): Promise<SecretChange> {
    for (let attempt = 1; attempt <= maxAttempts; attempt++) {
      const begun = await this.#handOutNumber(address, secret, condition);
      const isPointed = await this.#storeAndPoint(address, secret, condition, begun);
      if (isPointed !== undefined) {
        await removeGarbage(this.#context, address);
        return isPointed;
      }
    }
    throw busy("Storing the new value took too long, and another process has discarded it");
  }

  /** Returns the secrets of a server, sorted by name. */
  async list({
    workspace,
    slug,
  }: ServerAddress): Promise<{ readonly server: ServerInfo; readonly secrets: readonly SecretInfo[] }> {
    const { store } = this.#context;
    const record = await store.read(serverRecord, serverKey(workspace, slug));
    const server = requireServer(record?.value);
    const batch = await store.readBatch([usedKey(workspace, server.id)]);
    const lastUsed = LastUses.in(batch, workspace, server.id);
    const secrets = server.secrets.map((secret) => secretInfo(server, secret, lastUsed));
    return { server: serverInfo(server), secrets: secrets.sort((one, other) => (one.name < other.name ? -1 : 1)) };
  }

  /**
   * Deletes secrets with their values. Returns the names of the deleted secrets.
   *
   * @param name the name of the secret; `undefined` for all secrets of the server.
   * @throws SecretsError `SECRET_NOT_FOUND`; the errors of {@link changeServer}.
   */
  async delete(
    address: ServerAddress,
    name: string | undefined,
    condition: ChangeCondition,
  ): Promise<{ readonly server: ServerInfo; readonly names: readonly string[] }> {
    const result = await changeServer(this.#context, address, condition, (server) => {
      const deleted = name === undefined ? server.secrets : [requireSecret(server, name)];
      const next: ServerRecord = {
        ...server,
        revision: server.revision + 1,
        secrets: server.secrets.filter((secret) => !deleted.includes(secret)),
        garbage: [...server.garbage, ...deleted.map(({ value }) => ({ value }))],
      };
      const names = deleted.map((secret) => secret.name);
      if (deleted.length === 0) return { result: { server: serverInfo(server), names } };
      return { next, result: { server: serverInfo(next), names } };
    });
    await removeGarbage(this.#context, address);
    return result;
  }

  /**
   * Changes the rule by which a secret's value enters a request.
   *
   * @throws SecretsError `SECRET_NOT_FOUND`, `RULE_CONFLICT`, `FIELD_INVALID`; the errors of {@link changeServer}.
   */
  async inject(
    address: ServerAddress,
    name: string,
    rule: InjectionRule,
    condition: ChangeCondition,
  ): Promise<SecretChange> {
    return await changeServer(this.#context, address, condition, (server) => {
      const former = requireSecret(server, name);
      requireFreeHeader(server, name, rule);
      requirePair(former.pair, rule);
      const secret: SecretRecord = { ...former, rule };
      const next: ServerRecord = {
        ...server,
        revision: server.revision + 1,
        secrets: server.secrets.map((other) => (other === former ? secret : other)),
      };
      const result = {
        secret: secretInfo(next, secret, undefined),
        created: false,
        warnings: warningsOf(rule),
        revision: next.revision,
      };
      return { next, result };
    });
  }

  /** Reserves a number for a new value, after checking that the secret can be set. */
  async #handOutNumber(address: ServerAddress, secret: CheckedSecret, condition: ChangeCondition): Promise<BegunValue> {
    // Without the id, two processes could write the same text, and both believe that the number is theirs.
    const id = newId();
    return await changeServer(this.#context, address, condition, (server): Decision<ServerRecord, BegunValue> => {
      const origin = originOf(server.url);
      // The value will be bound to this origin, whatever the URL becomes until the value is stored.
      if (secret.expectedOrigin !== undefined && secret.expectedOrigin !== origin) throw originChanged(origin);
      const rule = ruleFor(server, secret);
      requirePair(isPair(secret.value), rule);
      requireFreeHeader(server, secret.name, rule);
      const isNew = server.secrets.every(({ name }) => name !== secret.name);
      if (isNew && server.secrets.length >= maxSecretsOfServer) throw tooMany();
      if (server.pending.length >= maxPending) throw busy(`${maxPending} values of this server are being set`);
      if (server.garbage.length >= maxGarbage) throw busy("The store still has former values that it could not delete");
      const value = server.values + 1;
      const next: ServerRecord = {
        ...server,
        values: value,
        pending: [...server.pending, { value, since: Date.now(), id }],
      };
      return { next, result: { value, server: server.id, origin } };
    });
  }

  /**
   * Stores a value and points its secret to it. Returns `undefined` if the number is already used, or if another
   * process has discarded the value.
   */
  async #storeAndPoint(
    address: ServerAddress,
    secret: CheckedSecret,
    condition: ChangeCondition,
    begun: BegunValue,
  ): Promise<SecretChange | undefined> {
    const key = valueKey(address.workspace, begun.server, begun.value);
    let isStored = false;
    try {
      const record: ValueRecord = { v: 1, name: secret.name, origin: begun.origin, value: secret.value };
      if (!(await this.#context.store.create({}, key, record, secret.expires))) {
        // A store that was restored from a backup in parts may have a record under this number.
        await this.#giveUp(address, begun, true);
        return undefined;
      }
      isStored = true;
      // The condition is checked after it is clear that a former attempt was not made.
      const pointed = await changeServer(this.#context, address, {}, (server) =>
        this.#pointed(server, secret, condition, begun),
      );
      // Garbage of another process, which may have been deleted before this process stored the record.
      if (pointed === undefined) await this.#context.store.remove([key]);
      return pointed;
    } catch (error) {
      await this.#giveUp(address, begun, isStored);
      throw error;
    }
  }

  #pointed(
    server: ServerRecord,
    secret: CheckedSecret,
    { ifRevision }: ChangeCondition,
    begun: BegunValue,
  ): Decision<ServerRecord, SecretChange | undefined> {
    // The caller has not seen the server that was created in the place of the deleted one.
    if (server.id !== begun.server) throw serverNotFound();
    const former = server.secrets.find(({ name }) => name === secret.name);
    if (former?.value === begun.value) {
      // The former attempt was made after all, and other changes followed.
      const info = secretInfo(server, former, undefined);
      return {
        result: {
          secret: info,
          created: former.revision === 1,
          warnings: warningsFor(info),
          revision: former.revision,
        },
      };
    }
    if (ifRevision !== undefined && ifRevision !== server.revision) throw revisionChanged(server.revision);
    if (server.pending.every(({ value }) => value !== begun.value)) return { result: undefined };
    const rule = ruleFor(server, secret);
    requirePair(isPair(secret.value), rule);
    requireFreeHeader(server, secret.name, rule);
    if (former === undefined && server.secrets.length >= maxSecretsOfServer) throw tooMany();
    const revision = server.revision + 1;
    const changed: SecretRecord = {
      name: secret.name,
      rule,
      value: begun.value,
      revision,
      origin: begun.origin,
      setAt: Date.now(),
      setBy: secret.setBy,
      ...(secret.expires === undefined ? {} : { expires: secret.expires }),
      weak: Buffer.byteLength(secret.value) < weakBelowBytes,
      pair: isPair(secret.value),
      redacted: secret.redacted,
    };
    const next: ServerRecord = {
      ...server,
      revision,
      secrets: [...server.secrets.filter((other) => other !== former), changed],
      pending: server.pending.filter(({ value }) => value !== begun.value),
      garbage: former === undefined ? server.garbage : [...server.garbage, { value: former.value }],
    };
    const info = secretInfo(next, changed, undefined);
    return { next, result: { secret: info, created: former === undefined, warnings: warningsFor(info), revision } };
  }

  /**
   * Deletes the value that a failed `set` may have stored. If the deletion fails, the sweep deletes the value later.
   *
   * @param isAnswered true if the store has confirmed that the value's record exists. Otherwise the store may still
   * write the record, so the value stays in the list of values to delete for a day.
   */
  async #giveUp(address: ServerAddress, { value, server: id }: BegunValue, isAnswered: boolean): Promise<void> {
    const left = isAnswered ? { value } : { value, until: Date.now() + lookedAfterMs };
    try {
      const isUsed = await this.#context.store.change(
        serverRecord,
        serverKey(address.workspace, address.slug),
        (server): Decision<ServerRecord, boolean> => {
          if (server?.id !== id) return { result: false };
          // A secret may point to the value already, if only the answer of the store was lost.
          if (server.secrets.some((secret) => secret.value === value)) return { result: true };
          const pending = server.pending.filter((other) => other.value !== value);
          if (pending.length === server.pending.length) return { result: false };
          return { next: { ...server, pending, garbage: [...server.garbage, left] }, result: false };
        },
      );
      if (isUsed) return;
      await this.#context.store.remove([valueKey(address.workspace, id, value)]);
      await removeGarbage(this.#context, address);
    } catch (error) {
      this.#context.onProblem(error);
    }
  }
}

/** A value that has a number, and that no secret points to yet. */
interface BegunValue {
  readonly value: number;
  /** The id of the server. */
  readonly server: string;
  /** The origin that the server had when the number was handed out. The value may be sent to this origin only. */
  readonly origin: string;
}

/** Returns the secret of a server with a name. */
function requireSecret(server: ServerRecord, name: string): SecretRecord {
  const secret = server.secrets.find((other) => other.name === name);
  if (secret !== undefined) return secret;
  throw new SecretsError("SECRET_NOT_FOUND", `The server ${server.slug} has no such secret`, {
    hint: `List the secrets with \`keyward secrets list ${server.slug}\`, and correct the name.`,
  });
}

/**
 * Returns the rule for a secret: the passed rule, else its current rule, else the header with the name of the secret.
 */
function ruleFor(server: ServerRecord, { name, rule }: CheckedSecret): InjectionRule {
  const chosen = rule ?? server.secrets.find((other) => other.name === name)?.rule;
  // The name of a secret may be that of a header that the gateway sets itself, such as Host.
  return requireRule(chosen ?? { kind: "header", header: name });
}

function requireFreeHeader(server: ServerRecord, name: string, rule: InjectionRule): void {
  const header = headerOf(rule).toLowerCase();
  const other = server.secrets.find((secret) => secret.name !== name && headerOf(secret.rule).toLowerCase() === header);
  if (other === undefined) return;
  // The header is not repeated: a caller may have passed a value in the place of the header.
  throw new SecretsError("RULE_CONFLICT", `The secret ${other.name} of this server already sets this header`, {
    hint: `Choose another header, or delete the secret ${other.name} first.`,
  });
}

/** Returns what callers see of a secret: everything except its value. */
export function secretInfo(server: ServerRecord, secret: SecretRecord, lastUsed: number | undefined): SecretInfo {
  const { name, rule, revision, setAt, setBy, expires, weak, redacted, origin } = secret;
  const isExpired = expires !== undefined && expires <= Date.now();
  const unusable = isExpired ? "expired" : origin === originOf(server.url) ? undefined : "origin-changed";
  // A call uses every secret of its server, so a use after the value was set was a use of this value.
  const used = lastUsed !== undefined && lastUsed >= setAt ? lastUsed : undefined;
  return { name, rule, revision, setAt, setBy, expires, lastUsed: used, weak, redacted, origin, unusable };
}

function warningsFor({ name, rule, weak, redacted, unusable }: SecretInfo): readonly string[] {
  return [
    ...warningsOf(rule),
    ...(weak ? [`The value of ${name} has fewer than ${weakBelowBytes} bytes, so it could be guessed.`] : []),
    ...(redacted ? [] : [`Answers of the server are not searched for the value of ${name}.`]),
    ...(unusable === "origin-changed"
      ? [
          "The URL of the server was changed while the value was being set, so calls cannot use the value. Set the value again if the new origin may receive it.",
        ]
      : []),
  ];
}

function originChanged(origin: string): SecretsError {
  return new SecretsError("ORIGIN_CHANGED", `The server now has the origin ${origin}, so the value was not stored`, {
    hint: "Find out who changed the URL of the server. Set the value again only if this origin may receive it.",
  });
}

function tooMany(): SecretsError {
  return new SecretsError("LIMIT_REACHED", `A server has at most ${maxSecretsOfServer} secrets`, {
    hint: "Delete a secret that is not used, or add a second server with the same URL.",
  });
}

function busy(problem: string): SecretsError {
  return new SecretsError("SERVICE_BUSY", `${problem}, so the secret was not set`, {
    hint: "Repeat the call in a few seconds.",
  });
}
