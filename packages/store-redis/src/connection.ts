import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, requireAmount } from "@keyward/core";
import { Deadline } from "./deadline.ts";
import { problemOf } from "./problems.ts";
import { bareError, isFromWrongNode, NotSent, serverCodeOf } from "./server-error.ts";

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

/**
 * `written`: OK. `written-or-not`: OK or null. `number`: a whole one. `bytes`: those, or null. `many-numbers` and
 * `many-bytes`: a list of such.
 */
export type Answer = "written" | "written-or-not" | "number" | "bytes" | "many-numbers" | "many-bytes";

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

/** Replies that say a command was not carried out, and may well be a moment later on the same connection. */
const passing: ReadonlySet<string | undefined> = new Set(["ASK", "BUSY", "TRYAGAIN"]);

const pauseMs = 20;
/** How often at most a connection to the wrong node is replaced: the right one may not be known yet. */
const leaveEveryMs = 250;
/** How long a connection that is about to be replaced waits for the replies to what it has sent. */
const drainMs = 100;

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
  /** What went wrong in the background since the last reply. */
  #failure: Error | undefined;
  /** Whether a server has ever answered. */
  #answered = false;
  #attempts = 0;
  /** While the connection to a wrong node is replaced. */
  #leaving: Promise<void> | undefined;
  #leaveAgainAtMs = 0;
  /** Whether a server was found to be too old for some command. */
  #isOld = false;

  constructor(timeoutMs: number) {
    this.timeoutMs = requireAmount("timeoutMs", timeoutMs, "milliseconds");
  }

  /** Whether keys lie on several servers, by their slots. */
  abstract readonly isCluster: boolean;

  /** Each primary, once there are any. */
  abstract servers(deadline: Deadline): Promise<readonly ScannedServer[]>;

  /** Sends one command once; redirections are followed. Rejects with {@link NotSent} where that is certain. */
  protected abstract attempt(request: Request, deadline: Deadline): Promise<unknown>;

  /** Has a Cluster look for its nodes again. */
  protected abstract refresh(): void;

  /**
   * Replaces the connection to one server, so that its address, or its sentinels, lead to the node that is the primary by
   * now. Does nothing for a Cluster, or for a client that does not connect again by itself.
   */
  protected abstract leave(): void;

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
    return await deadline.bound(work(deadline), () => this.tooLate(deadline));
  }

  /** Takes note of what went wrong in the background: until the next reply it says why there is none. */
  noteFailure(error: unknown): void {
    const failure = bareError(error);
    // That a socket closed says less than why.
    if (problemOf(failure) !== undefined || problemOf(this.#failure) === undefined) this.#failure = failure;
  }

  /** Forgets what {@link Connection.noteFailure} was told: there is a connection. */
  protected noteSuccess(): void {
    this.#failure = undefined;
  }

  /** What {@link Connection.noteFailure} was told last. */
  protected get failure(): Error | undefined {
    return this.#failure;
  }

  /** Waits a moment before something is tried again, and leaves a node that is the wrong one. */
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

  /** What has been sent is answered, unless that takes long: of a write that is cut off, nobody knows whether it arrived. */
  async #drained(): Promise<void> {
    const untilMs = performance.now() + drainMs;
    while (this.#attempts > 0 && performance.now() < untilMs) await sleep(1);
  }

  /** The error of a call whose time is over: what is known of why. */
  protected tooLate({ lastError }: Deadline): KeywardError {
    for (const error of [lastError, this.#failure]) {
      const problem = problemOf(error);
      if (problem !== undefined) return unavailable(problem.message, problem.hint, error);
    }
    const hint = this.#answered
      ? "Find out why the server is slow or away, or raise timeoutMs."
      : "It never has: check that this is the address of a Redis, and that TLS is used if the server wants it, and only then.";
    return unavailable(
      `Redis did not answer within ${this.timeoutMs} ms`,
      `Nothing is known about whether a write arrived. ${hint}`,
      lastError ?? this.#failure,
    );
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
        const reply = await this.#attempt(request, deadline);
        if (!isAnswer(request, reply)) throw unexpected(request);
        return isLikeStatus(request, reply) ? await this.#readAgain(request, deadline) : reply;
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
        const refusedForNow = passing.has(code) || isFromWrongNode(error);
        const repeatable = error instanceof NotSent || refusedForNow || (code === undefined && !request.writes);
        if (this.#closed || deadline.passed || !repeatable) throw explain(request, error);
        await this.pause(deadline, error);
        // The call may have settled meanwhile, by another command of its batch.
        if (deadline.passed) throw explain(request, error);
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
    ...(cause === undefined ? {} : { cause: bareError(cause) }),
  });
}

function explain({ name }: Request, error: unknown): KeywardError {
  switch (serverCodeOf(error)) {
    case undefined: {
      const problem = error instanceof NotSent ? problemOf(error) : undefined;
      if (problem !== undefined) return unavailable(problem.message, problem.hint, error);
      return unavailable(
        `The connection to Redis was lost at ${name}`,
        "Nothing is known about whether a write arrived. The connection comes back by itself.",
        error,
      );
    }
    case "WRONGTYPE":
      return new KeywardError(
        "STORE_INVALID",
        "A key of this store holds something that is no record, such as a list",
        {
          hint: "Another application uses the same keys: find out which, or choose another prefix.",
          cause: bareError(error),
        },
      );
    case "NOPERM":
      return unavailable(
        `Redis does not allow ${name}`,
        "The ACL of the user must have this command, and the keys of the store: of a RedisStore ~prefix:*, which is " +
          "~keyward:* unless the option prefix is given.",
        error,
      );
    default: {
      const problem = problemOf(error) ?? { message: `Redis refused ${name}`, hint: "See the cause." };
      return unavailable(problem.message, problem.hint, error);
    }
  }
}
