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
   * Whether the command changes data. If so, the store does not repeat the command when the server may have carried out
   * the first attempt.
   */
  readonly writes: boolean;
  /**
   * The expected type of the reply. If the reply has another type, the call rejects. For example, the server replies
   * QUEUED while the client has an open transaction.
   */
  readonly answer: Answer;
  /**
   * For EVALSHA: the text of the script, which is sent with EVAL if the server does not know the script's digest yet.
   */
  readonly script?: string;
  /**
   * An equivalent command without the newer syntax, which is sent to a server that replies to this command with a
   * syntax error.
   */
  readonly olderForm?: Request;
}

/**
 * Types of replies that a command can have.
 *
 * - `written`: OK.
 * - `written-or-not`: OK or null.
 * - `number`: an integer.
 * - `bytes`: bytes or null.
 * - `many-numbers`: a list of integers.
 * - `many-bytes`: a list of bytes and nulls.
 */
export type Answer = "written" | "written-or-not" | "number" | "bytes" | "many-numbers" | "many-bytes";

/** A primary node, or a single server, whose keys a scan reads. */
export interface ScannedServer {
  /** Address of the server, by which the cursor of a scan identifies the server. */
  readonly address: string;
  /**
   * Runs read-only commands in one MULTI transaction and returns their replies. So all replies come from one process of
   * the server, even if the server restarts. Sends either all commands or none: after a MULTI without an EXEC, the
   * server would queue all later commands of the client.
   */
  transaction(commands: readonly (readonly string[])[], deadline: Deadline): Promise<readonly unknown[]>;
}

/** Error replies for a command that was not carried out and may succeed a moment later on the same connection. */
const temporaryErrors: ReadonlySet<string | undefined> = new Set(["ASK", "BUSY", "TRYAGAIN"]);

const pauseMs = 20;
/** After a reconnection because of the wrong node, how long to wait before the next one, in milliseconds. */
const leaveEveryMs = 250;
/** How long the store waits for outstanding replies before it reconnects because of the wrong node, in milliseconds. */
const drainMs = 100;

// ioredis returns a status, such as OK, as bytes, so that the store cannot distinguish the status from the value "OK".
// A script
// returns the value inside an array, which is never a status.
const statuses: ReadonlySet<string> = new Set(["OK", "PONG", "QUEUED"]);
const longestStatus = 6;
const readScript = `return {redis.call("GET", KEYS[1])}`;

/**
 * The one connection to Redis that a store and its views share. Its subclasses use the clients of ioredis and of
 * `@redis/client`. Every call ends within the timeout. A command is repeated only if the server has certainly not
 * carried it out, or if the command only reads.
 */
export abstract class Connection {
  /**
   * Maximum duration of a call in milliseconds. A call that takes longer rejects, and no more commands are sent for
   * that call.
   */
  readonly timeoutMs: number;
  #closed = false;
  /** The latest error of the connection. `undefined` if the server has replied since that error. */
  #failure: Error | undefined;
  /** Whether the server has ever replied. */
  #answered = false;
  #attempts = 0;
  /** Settles when the client has begun to reconnect because of the wrong node. `undefined` at any other time. */
  #leaving: Promise<void> | undefined;
  #leaveAgainAtMs = 0;
  /** Whether the server did not know the syntax of a command. If so, later calls send the older form of their commands. */
  #isOld = false;

  constructor(timeoutMs: number) {
    this.timeoutMs = requireAmount("timeoutMs", timeoutMs, "milliseconds");
  }

  /** Whether the client is connected to a Cluster, which distributes keys over its nodes by their slots. */
  abstract readonly isCluster: boolean;

  /** Waits until the client knows all primary nodes (or the single server), and returns them. */
  abstract servers(deadline: Deadline): Promise<readonly ScannedServer[]>;

  /**
   * Sends a command once, and follows the redirections of a Cluster. Rejects with {@link NotSent} if the command was
   * certainly not sent.
   */
  protected abstract attempt(request: Request, deadline: Deadline): Promise<unknown>;

  /** Makes the client of a Cluster ask again which node serves which slots. */
  protected abstract refresh(): void;

  /**
   * Reconnects the client of a single server or a Sentinel group, so that it finds the node that is the primary now.
   * Does nothing for a Cluster, or for a client that does not reconnect by itself.
   */
  protected abstract leave(): void;

  /**
   * Closes the client if the store created the client. A store over an adapter closes the adapter if no other store
   * uses it.
   */
  protected abstract end(): Promise<void>;

  /**
   * Sends all commands, with one write to the connection of each server, and returns their replies in the order of
   * `requests`. If the server permanently refuses one of the commands, the store repeats none of them.
   */
  async send(requests: readonly Request[]): Promise<unknown[]> {
    return await this.within((deadline) => Promise.all(requests.map((request) => this.#carryOut(request, deadline))));
  }

  /**
   * Runs `work`, the whole work of one call of the store, with a deadline of `timeoutMs` from now.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if `work` takes longer than `timeoutMs`, or if the store is disconnected.
   */
  async within<Result>(work: (deadline: Deadline) => Promise<Result>): Promise<Result> {
    if (this.#closed) {
      throw unavailable(
        "The Redis store is disconnected",
        "Create a new store: `disconnect()` has closed the connection of this store and of all its views.",
        undefined,
      );
    }
    const deadline = new Deadline(this.timeoutMs);
    return await deadline.bound(work(deadline), () => this.tooLate(deadline));
  }

  /** Remembers an error of the connection. Until the server replies again, this error explains why calls fail. */
  noteFailure(error: unknown): void {
    const failure = bareError(error);
    // An error with a known reason is not replaced by one without, such as the following close of the socket.
    if (problemOf(failure) !== undefined || problemOf(this.#failure) === undefined) this.#failure = failure;
  }

  /** Forgets the error that {@link Connection.noteFailure} remembers, because the client has connected since then. */
  protected noteSuccess(): void {
    this.#failure = undefined;
  }

  /** The error that {@link Connection.noteFailure} remembers. `undefined` if the server has replied since then. */
  protected get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * Waits briefly before the caller repeats a command. If `error` is a reply of the wrong node, such as a demoted
   * primary, also reconnects the client.
   */
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

  /**
   * Waits briefly for outstanding replies. If the reply to a write is lost, it is unknown whether the server carried
   * out the write.
   */
  async #drained(): Promise<void> {
    const untilMs = performance.now() + drainMs;
    while (this.#attempts > 0 && performance.now() < untilMs) await sleep(1);
  }

  /**
   * Returns the error for a call that took longer than its time limit. The error names the reason if the latest error
   * of the call or of the connection reveals the reason.
   */
  protected tooLate({ lastError }: Deadline): KeywardError {
    for (const error of [lastError, this.#failure]) {
      const problem = problemOf(error);
      if (problem !== undefined) return unavailable(problem.message, problem.hint, error);
    }
    const hint = this.#answered
      ? "Find out why the server is slow or unreachable. If such delays are expected, raise `timeoutMs`."
      : "The server has never replied, so check its address. Use TLS if the server requires TLS, and no TLS otherwise.";
    return unavailable(
      `Redis did not reply within ${this.timeoutMs} ms`,
      `${hint} If the call writes, read the record before you repeat the write, because the server may have carried it out.`,
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
    `Redis replied to the command ${name} with an unexpected type of reply`,
    "Give the store a separate client, because the application may have opened a MULTI transaction on this client. If the call writes, " +
      "read the record before you repeat the write, because the server may have carried it out.",
    undefined,
  );
}

/**
 * Returns the replies to the commands of a transaction. The server sends these replies as one list, which is the reply
 * to EXEC.
 *
 * @param replies the replies to MULTI, to each command, and to EXEC.
 */
export function executedOf(replies: readonly unknown[]): readonly unknown[] {
  const executed = replies.at(-1);
  if (isOk(replies[0]) && Array.isArray(executed) && executed.length === replies.length - 2) return executed;
  throw new Error("The transaction has an unexpected reply");
}

/** Returns a `STORE_UNAVAILABLE` error, whose cause contains no part of a command. */
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
        `The connection to Redis was lost during the command ${name}`,
        "Repeat the call, because the store reconnects by itself. If the call writes, first read the record, because the " +
          "server may have carried out the write.",
        error,
      );
    }
    case "WRONGTYPE":
      return new KeywardError(
        "STORE_INVALID",
        "A key of the store in Redis has a value that is not a string, such as a list",
        {
          hint:
            "Find out which application wrote this value, and let that application use other keys. If the store has no " +
            "records yet, you can instead choose another `prefix` for the RedisStore.",
          cause: bareError(error),
        },
      );
    case "NOPERM":
      return unavailable(
        `Redis does not allow the command ${name} for this user`,
        "Add the command and the keys of the store to the user's ACL. The keys of a RedisStore match `~prefix:*`, by " +
          "default `~keyward:*`.",
        error,
      );
    default: {
      const problem = problemOf(error) ?? {
        message: `Redis refused the command ${name}`,
        hint: "Check the server's version and configuration. The property `cause` contains the error that the server replied.",
      };
      return unavailable(problem.message, problem.hint, error);
    }
  }
}
