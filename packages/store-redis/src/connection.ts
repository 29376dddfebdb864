import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError } from "@keyward/core";
import { Deadline } from "./deadline.ts";
import { bareError, serverCodeOf } from "./server-error.ts";

/** A command as a store asks for it. */
export interface Request {
  readonly name: string;
  readonly given: readonly (string | Buffer)[];
  /** Whether it changes something: then it is not sent again where the first time may have been carried out. */
  readonly writes: boolean;
  /** What it is answered with. Any other reply, such as QUEUED in a transaction that somebody left open, is a failure. */
  readonly answer: Answer;
  /** For EVALSHA: the text of the script, for a server that does not know it by its digest. */
  readonly script?: string;
  /** What does the same on a server that is too old for it, and answers with a syntax error. */
  readonly olderForm?: Request;
}

/** `written`: OK. `written-or-not`: OK or null. `number`: a whole one. `bytes`: those, or null. */
export type Answer = "written" | "written-or-not" | "number" | "bytes";

/** One server that keys are scanned on. */
export interface ScannedServer {
  /** Where it is, the same each time it is asked for. */
  readonly address: string;
  /**
   * Sends commands that only read and are carried out together, by one process of the server, and returns their replies.
   * They are sent all or not at all: a transaction that was begun and not ended would swallow what follows.
   */
  transaction(commands: readonly (readonly string[])[], deadline: Deadline): Promise<readonly unknown[]>;
}

/** What a command fails with when it is certain that it never left. */
export class NotSent extends Error {}

/** Replies that say a command was not carried out, and may well be a moment later. */
const passing: ReadonlySet<string | undefined> = new Set([
  "ASK",
  "BUSY",
  "CLUSTERDOWN",
  "LOADING",
  "MASTERDOWN",
  "MOVED",
  "NOREPLICAS",
  "READONLY",
  "TRYAGAIN",
]);

const pauseMs = 20;

// The clients of ioredis hand out a status as bytes, like a value. An array of values cannot be taken for one.
const statuses: ReadonlySet<string> = new Set(["OK", "PONG", "QUEUED"]);
const longestStatus = 6;
const readScript = `return {redis.call("GET", KEYS[1])}`;

/**
 * The one connection that a store and its views share, over whichever client. Every call ends in time. A command is
 * tried again where it is certain that it was not carried out, or where that does not matter.
 */
export abstract class Connection {
  /** How long one call may take, in ms. Afterwards nothing is sent for it. */
  readonly timeoutMs: number;
  #closed = false;
  /** Whether a server was found to be too old for some command. */
  #isOld = false;

  constructor(timeoutMs: number) {
    if (!(Number.isFinite(timeoutMs) && timeoutMs > 0)) {
      throw new KeywardError("VALUE_INVALID", "timeoutMs is not a number of milliseconds above 0", {
        hint: "Leave it out, or pass one such as 5000.",
      });
    }
    this.timeoutMs = timeoutMs;
  }

  /** Whether keys lie on several servers, by their slots. */
  abstract readonly isCluster: boolean;

  /** Each primary, once there are any. */
  abstract servers(deadline: Deadline): Promise<readonly ScannedServer[]>;

  /** Sends one command once; redirections are followed. Rejects with {@link NotSent} where that is certain. */
  protected abstract attempt(request: Request, deadline: Deadline): Promise<unknown>;

  /** Has a Cluster look for its nodes anew. */
  protected abstract refresh(): void;

  /** Ends what was opened for this store. */
  protected abstract end(): Promise<void>;

  /**
   * Sends all, as one write to each server, and returns their replies in order. Once one is refused, no other of them is
   * sent again.
   */
  async send(requests: readonly Request[]): Promise<unknown[]> {
    return await this.within((deadline) => Promise.all(requests.map((request) => this.#carryOut(request, deadline))));
  }

  /**
   * Does work that has to end in time.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` when it does not, or the store is disconnected.
   */
  async within<Result>(work: (deadline: Deadline) => Promise<Result>): Promise<Result> {
    if (this.#closed) {
      throw unavailable(
        "The store is disconnected",
        "disconnect() closes the connection of the store and of all its views. Make a new one.",
        undefined,
      );
    }
    const deadline = new Deadline(this.timeoutMs);
    return await deadline.bound(
      work(deadline),
      () =>
        refusedLogin(deadline.lastError) ??
        unavailable(
          `Redis did not answer within ${this.timeoutMs} ms`,
          "Nothing is known about whether a write arrived. Find out why the server is slow or away, or raise timeoutMs.",
          deadline.lastError,
        ),
    );
  }

  /** Waits a moment before something is tried again. */
  async pause(deadline: Deadline, error: unknown): Promise<void> {
    deadline.lastError = error ?? deadline.lastError;
    this.refresh();
    await sleep(pauseMs);
  }

  /** Ends the connection; a second time does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.end();
  }

  async #carryOut(asked: Request, deadline: Deadline): Promise<unknown> {
    let request = this.#isOld ? (asked.olderForm ?? asked) : asked;
    for (;;) {
      try {
        const reply = await this.attempt(request, deadline);
        if (!isAnswer(request, reply)) throw unexpected(request);
        return isLikeStatus(request, reply) ? await this.#readAgain(request, deadline) : reply;
      } catch (error) {
        if (error instanceof KeywardError) throw error;
        const code = serverCodeOf(error);
        if (code === "NOSCRIPT" && request.script !== undefined) {
          const { script, given, writes, answer } = request;
          request = { name: "EVAL", given: [script, ...given.slice(1)], writes, answer };
          continue;
        }
        if (code === "ERR" && request.olderForm !== undefined) {
          this.#isOld = true;
          request = request.olderForm;
          continue;
        }
        const repeatable = error instanceof NotSent || passing.has(code) || (code === undefined && !request.writes);
        if (this.#closed || deadline.passed || !repeatable) throw explain(request, error);
        await this.pause(deadline, error);
        // The call may have settled meanwhile, by another command of its batch.
        if (deadline.passed) throw explain(request, error);
      }
    }
  }

  /** The value where it looks like a status. */
  async #readAgain(request: Request, deadline: Deadline): Promise<unknown> {
    const given = [readScript, "1", ...request.given];
    const reply = await this.attempt({ name: "EVAL", given, writes: false, answer: request.answer }, deadline);
    if (!Array.isArray(reply)) throw unexpected(request);
    const [value]: unknown[] = reply;
    return value ?? null;
  }
}

function isAnswer({ answer }: Request, reply: unknown): boolean {
  switch (answer) {
    case "written":
      return isOk(reply);
    case "written-or-not":
      return reply === null || isOk(reply);
    case "number":
      return typeof reply === "number";
    case "bytes":
      return reply === null || Buffer.isBuffer(reply);
  }
}

function isOk(reply: unknown): boolean {
  return (typeof reply === "string" || Buffer.isBuffer(reply)) && reply.toString() === "OK";
}

function isLikeStatus({ answer }: Request, reply: unknown): boolean {
  if (answer !== "bytes" || !Buffer.isBuffer(reply) || reply.length > longestStatus) return false;
  return statuses.has(reply.toString());
}

function unexpected({ name }: Request): KeywardError {
  return unavailable(
    `Redis answered ${name} with something else than it should`,
    "Nothing is known about whether a write arrived. Give the store a client of its own: one with an open MULTI will not do.",
    undefined,
  );
}

/**
 * The replies of a transaction.
 *
 * @param replies to MULTI, to each command, and to EXEC.
 */
export function executedOf(replies: readonly unknown[]): readonly unknown[] {
  const executed = replies.at(-1);
  if (isOk(replies[0]) && Array.isArray(executed) && executed.length === replies.length - 2) return executed;
  throw new Error("The transaction was not answered as it should be");
}

/** The one error for a server that cannot be used. Nothing of a command is in its cause. */
export function unavailable(message: string, hint: string, cause: unknown): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", message, {
    hint,
    ...(cause === undefined ? {} : { cause: bareError(cause instanceof NotSent ? (cause.cause ?? cause) : cause) }),
  });
}

/** The error where the server answers, and lets nobody in with what the client sends when it connects. */
export function refusedLogin(cause: unknown): KeywardError | undefined {
  const error = cause instanceof NotSent ? cause.cause : cause;
  // By the words of the server: what clients report in the background is bare already.
  if (!(error instanceof Error && /^(?:WRONGPASS|NOAUTH|NOPERM)\b/.test(error.message))) return undefined;
  const hint = "Check the user, the password and the ACL. Nothing is written until they are right.";
  return unavailable("Redis refuses the login", hint, error);
}

function explain({ name }: Request, error: unknown): KeywardError {
  switch (serverCodeOf(error)) {
    case undefined:
      return unavailable(
        `The connection to Redis was lost at ${name}`,
        "Nothing is known about whether a write arrived. The connection comes back by itself.",
        error,
      );
    case "WRONGTYPE":
      return new KeywardError(
        "STORE_INVALID",
        "A key of this store holds something that is no record, such as a list",
        {
          hint: "Somebody else uses the same keys: find out who, or choose another prefix.",
          cause: bareError(error),
        },
      );
    case "NOAUTH":
    case "WRONGPASS":
      return unavailable(`Redis does not allow ${name}`, "Check the user and the password.", error);
    case "NOPERM":
      return unavailable(
        `Redis does not allow ${name}`,
        "The ACL of the user must have this command, and the keys of the store: of a RedisStore ~prefix:*, which is " +
          "~keyward:* unless the option prefix is given.",
        error,
      );
    case "OOM":
      return unavailable("Redis has no memory left", "Raise maxmemory, or set an eviction policy.", error);
    default:
      return unavailable(`Redis refused ${name}`, "See the cause.", error);
  }
}
