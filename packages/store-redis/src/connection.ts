import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, requireAmount } from "@keyward/core";
import { Deadline } from "./deadline.ts";
import { problemOf } from "./problems.ts";
import { bareError, isFromWrongNode, NotSent, serverCodeOf } from "./server-error.ts";

/** A command of Redis, and how the store handles its reply and its failure. */
export interface Request {
  readonly name: string;
  readonly given: readonly (string | Buffer)[];
  /**
   * Whether the command changes data. Such a command is not repeated if its first attempt may have been carried out.
   */
  readonly writes: boolean;
  /** The expected type of reply. Any other reply is a failure, such as QUEUED if the client has an open transaction. */
  readonly answer: Answer;
  /** For EVALSHA: the text of the script, for a server that does not know its digest yet. */
  readonly script?: string;
  /** An equivalent command for an older server, which replies to this one with a syntax error. */
  readonly olderForm?: Request;
}

/**
 * Types of replies.
 *
 * - `written`: OK.
 * - `written-or-not`: OK or null.
 * - `number`: an integer.
 * - `bytes`: bytes or null.
 * - `many-numbers`, `many-bytes`: a list of numbers, or of bytes and nulls.
 */
export type Answer = "written" | "written-or-not" | "number" | "bytes" | "many-numbers" | "many-bytes";

/** A server whose keys are scanned. */
export interface ScannedServer {
  /** Address of the server, which identifies it on every page of a scan. */
  readonly address: string;
  /**
   * Runs reading commands in one MULTI transaction, so that one process of the server answers all of them, and returns
   * their replies. Either all commands are sent or none: an unfinished transaction would queue all later commands.
   */
  transaction(commands: readonly (readonly string[])[], deadline: Deadline): Promise<readonly unknown[]>;
}

/** Error replies for a command that was not carried out and may succeed a moment later on the same connection. */
const temporaryErrors: ReadonlySet<string | undefined> = new Set(["ASK", "BUSY", "TRYAGAIN"]);

const pauseMs = 20;
/** Minimum time between two replacements of a connection to the wrong node: the right node may not be known yet. */
const leaveEveryMs = 250;
/** How long a connection that is about to be replaced waits for outstanding replies. */
const drainMs = 100;

// ioredis returns a status as bytes, like a value. A value inside an array is never mistaken for a status.
const statuses: ReadonlySet<string> = new Set(["OK", "PONG", "QUEUED"]);
const longestStatus = 6;
const readScript = `return {redis.call("GET", KEYS[1])}`;

/**
 * The one connection that a store and its views share, over any supported client. Every call ends within the timeout. A
 * command is repeated only if it was certainly not carried out, or if it only reads.
 */
export abstract class Connection {
  /** Maximum duration of a call in milliseconds. Afterwards no command is sent for that call. */
  readonly timeoutMs: number;
  #closed = false;
  /** The latest error of the connection since the last reply. */
  #failure: Error | undefined;
  /** Whether the server has ever replied. */
  #answered = false;
  #attempts = 0;
  /** Settles when the connection to a wrong node has been replaced. */
  #leaving: Promise<void> | undefined;
  #leaveAgainAtMs = 0;
  /** Whether the server has turned out to be too old for a command. */
  #isOld = false;

  constructor(timeoutMs: number) {
    this.timeoutMs = requireAmount("timeoutMs", timeoutMs, "milliseconds");
  }

  /** Whether the keys are distributed over several servers by their slots. */
  abstract readonly isCluster: boolean;

  /** Returns every primary node, after waiting until the client knows them. */
  abstract servers(deadline: Deadline): Promise<readonly ScannedServer[]>;

  /**
   * Sends a command once, and follows redirections. Rejects with {@link NotSent} if the command was certainly not sent.
   */
  protected abstract attempt(request: Request, deadline: Deadline): Promise<unknown>;

  /** Makes the client of a Cluster look up the nodes again. */
  protected abstract refresh(): void;

  /**
   * Reconnects the client of a single server or a Sentinel group, so that it finds the node that is the primary now.
   * Does nothing for a Cluster, or for a client that does not reconnect by itself.
   */
  protected abstract leave(): void;

  /** Closes the client if this store opened it. */
  protected abstract end(): Promise<void>;

  /**
   * Sends all commands, as one write to each server, and returns their replies in order. After a command has been
   * refused, no command of this call is repeated.
   */
  async send(requests: readonly Request[]): Promise<unknown[]> {
    return await this.within((deadline) => Promise.all(requests.map((request) => this.#carryOut(request, deadline))));
  }

  /**
   * Runs work that must end within the timeout.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the work takes longer, or the store is disconnected.
   */
  async within<Result>(work: (deadline: Deadline) => Promise<Result>): Promise<Result> {
    if (this.#closed) {
      throw unavailable(
        "The Redis store is disconnected",
        "Create a new store. disconnect() closes the connection of a store and of all its views.",
        undefined,
      );
    }
    const deadline = new Deadline(this.timeoutMs);
    return await deadline.bound(work(deadline), () => this.tooLate(deadline));
  }

  /** Remembers an error of the connection, to explain why calls fail until the next reply. */
  noteFailure(error: unknown): void {
    const failure = bareError(error);
    // An error with a known reason is not replaced by one without, such as the following close of the socket.
    if (problemOf(failure) !== undefined || problemOf(this.#failure) === undefined) this.#failure = failure;
  }

  /** Forgets the error of {@link Connection.noteFailure}, because the client has connected. */
  protected noteSuccess(): void {
    this.#failure = undefined;
  }

  /** The latest error that {@link Connection.noteFailure} remembers. */
  protected get failure(): Error | undefined {
    return this.#failure;
  }

  /** Waits a moment before a command is repeated, and reconnects if `error` came from the wrong node. */
  async pause(deadline: Deadline, error: unknown): Promise<void> {
    deadline.lastError = error ?? deadline.lastError;
    this.refresh();
    await sleep(pauseMs);
    if (isFromWrongNode(error)) this.#leaveNode();
  }

  #leaveNode(): void {
    if (this.#closed || this.#leaving !== undefined || performance.now() < this.#leaveAgainAtMs) return;
    this.#leaving = this.#drained().then(() => {
      if (!this.#closed) this.leave();
      this.#leaveAgainAtMs = performance.now() + leaveEveryMs;
      this.#leaving = undefined;
    });
  }

  /** Waits briefly for outstanding replies: if a write is cut off, it is unknown whether the server carried it out. */
  async #drained(): Promise<void> {
    const untilMs = performance.now() + drainMs;
    while (this.#attempts > 0 && performance.now() < untilMs) await sleep(1);
  }

  /** Returns the error of a call that took too long, with the reason if it is known. */
  protected tooLate({ lastError }: Deadline): KeywardError {
    for (const error of [lastError, this.#failure]) {
      const problem = problemOf(error);
      if (problem !== undefined) return unavailable(problem.message, problem.hint, error);
    }
    const hint = this.#answered
      ? "Find out why the server is slow or unreachable, or raise timeoutMs."
      : "The server has never replied: check its address, and that the client uses TLS if and only if the server does.";
    return unavailable(
      `Redis did not reply within ${this.timeoutMs} ms`,
      `${hint} A write of this call may have been carried out: read the record before you repeat the write.`,
      lastError ?? this.#failure,
    );
  }

  /** Closes the connection. A second call does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.end();
  }

  async #carryOut(asked: Request, deadline: Deadline): Promise<unknown> {
    let request = this.#isOld ? (asked.olderForm ?? asked) : asked;
    for (;;) {
      try {
        const reply = await this.#attempt(request, deadline);
        if (!isAnswer(request, reply)) throw unexpectedReply(request);
        return looksLikeStatus(request, reply) ? await this.#readAgain(request, deadline) : reply;
      } catch (error) {
        if (error instanceof KeywardError) throw error;
        const code = serverCodeOf(error);
        if (code === "NOSCRIPT" && request.script !== undefined) {
          const { script, given, writes, answer, olderForm } = request;
          const whole = { name: "EVAL", given: [script, ...given.slice(1)], writes, answer };
          request = olderForm === undefined ? whole : { ...whole, olderForm };
          continue;
        }
        if (code === "ERR" && request.olderForm !== undefined) {
          this.#isOld = true;
          request = request.olderForm;
          continue;
        }
        const refusedForNow = temporaryErrors.has(code) || isFromWrongNode(error);
        const repeatable = error instanceof NotSent || refusedForNow || (code === undefined && !request.writes);
        if (this.#closed || deadline.passed || !repeatable) throw errorOf(request, error);
        await this.pause(deadline, error);
        // The call may have settled meanwhile because of another command of its batch.
        if (deadline.passed) throw errorOf(request, error);
      }
    }
  }

  async #attempt(request: Request, deadline: Deadline): Promise<unknown> {
    if (this.#leaving !== undefined) await this.#leaving;
    this.#attempts++;
    try {
      const reply = await this.attempt(request, deadline);
      this.#failure = undefined;
      this.#answered = true;
      return reply;
    } finally {
      this.#attempts--;
    }
  }

  /** Reads the value again inside an array, because its bytes could also be a status. */
  async #readAgain(request: Request, deadline: Deadline): Promise<unknown> {
    const given = [readScript, "1", ...request.given];
    const reply = await this.attempt({ name: "EVAL", given, writes: false, answer: request.answer }, deadline);
    if (!Array.isArray(reply)) throw unexpectedReply(request);
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
      return isBytesOrNull(reply);
    case "many-numbers":
      return Array.isArray(reply) && reply.every((each) => typeof each === "number");
    case "many-bytes":
      return Array.isArray(reply) && reply.every(isBytesOrNull);
  }
}

function isBytesOrNull(reply: unknown): boolean {
  return reply === null || Buffer.isBuffer(reply);
}

function isOk(reply: unknown): boolean {
  return (typeof reply === "string" || Buffer.isBuffer(reply)) && reply.toString() === "OK";
}

function looksLikeStatus({ answer }: Request, reply: unknown): boolean {
  if (answer !== "bytes" || !Buffer.isBuffer(reply) || reply.length > longestStatus) return false;
  return statuses.has(reply.toString());
}

function unexpectedReply({ name }: Request): KeywardError {
  return unavailable(
    `Redis replied to ${name} with an unexpected type`,
    "Give the store a separate client: a client with an open MULTI cannot be shared. Read the record before you repeat a write.",
    undefined,
  );
}

/**
 * Returns the replies to the commands of a transaction.
 *
 * @param replies the replies to MULTI, to each command, and to EXEC.
 */
export function executedOf(replies: readonly unknown[]): readonly unknown[] {
  const executed = replies.at(-1);
  if (isOk(replies[0]) && Array.isArray(executed) && executed.length === replies.length - 2) return executed;
  throw new Error("The transaction has an unexpected reply");
}

/** Returns a `STORE_UNAVAILABLE` error. Its cause contains no part of a command. */
export function unavailable(message: string, hint: string, cause: unknown): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", message, {
    hint,
    ...(cause === undefined ? {} : { cause: bareError(cause) }),
  });
}

function errorOf({ name }: Request, error: unknown): KeywardError {
  switch (serverCodeOf(error)) {
    case undefined: {
      const problem = error instanceof NotSent ? problemOf(error) : undefined;
      if (problem !== undefined) return unavailable(problem.message, problem.hint, error);
      return unavailable(
        `The connection to Redis was lost during ${name}`,
        "Repeat the call: the store reconnects by itself. Read the record before you repeat a write: it may be done.",
        error,
      );
    }
    case "WRONGTYPE":
      return new KeywardError(
        "STORE_INVALID",
        "A key of the Redis store has a value of another type than a record, such as a list",
        {
          hint: "Find out which application uses the same keys, or choose another prefix for the store.",
          cause: bareError(error),
        },
      );
    case "NOPERM":
      return unavailable(
        `Redis does not allow ${name} for this user`,
        "Add the command and the keys of the store to the user's ACL. The keys of a RedisStore are ~prefix:*, by default " +
          "~keyward:*.",
        error,
      );
    default: {
      const problem = problemOf(error) ?? {
        message: `Redis refused ${name}`,
        hint: "Check the server's version and configuration. The cause has the error that the server replied.",
      };
      return unavailable(problem.message, problem.hint, error);
    }
  }
}
