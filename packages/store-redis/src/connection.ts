import type { Buffer } from "node:buffer";
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
  /** For EVALSHA: the text of the script, for a server that does not know it by its digest. */
  readonly script?: string;
}

/** One server that keys are scanned on. */
export interface ScannedServer {
  /** Where it is, the same each time it is asked for. */
  readonly address: string;
  /** Sends commands that are carried out together, by one process of the server, and returns their replies. */
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
  "READONLY",
  "TRYAGAIN",
]);

const pauseMs = 20;

/**
 * The one connection that a store and its views share, over whichever client. Every call ends in time. A command is
 * tried again where it is certain that it was not carried out, or where that does not matter.
 */
export abstract class Connection {
  readonly #timeoutMs: number;
  #closed = false;

  constructor(timeoutMs: number) {
    if (!(Number.isFinite(timeoutMs) && timeoutMs > 0)) {
      throw new KeywardError("VALUE_INVALID", "timeoutMs is not a number of milliseconds above 0", {
        hint: "Leave it out, or pass one such as 5000.",
      });
    }
    this.#timeoutMs = timeoutMs;
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

  /** Sends all, as one write to each server, and returns their replies in order. */
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
    const deadline = new Deadline(this.#timeoutMs);
    return await deadline.bound(work(deadline), () =>
      unavailable(
        `Redis did not answer within ${this.#timeoutMs} ms`,
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
    let request = asked;
    for (;;) {
      try {
        return await this.attempt(request, deadline);
      } catch (error) {
        if (error instanceof KeywardError) throw error;
        const code = serverCodeOf(error);
        if (code === "NOSCRIPT" && request.script !== undefined) {
          request = { name: "EVAL", given: [request.script, ...request.given.slice(1)], writes: request.writes };
          continue;
        }
        const repeatable = error instanceof NotSent || passing.has(code) || (code === undefined && !request.writes);
        if (this.#closed || deadline.passed || !repeatable) throw explain(request, error);
        await this.pause(deadline, error);
      }
    }
  }
}

/** The one error for a server that cannot be used. Nothing of a command is in its cause. */
export function unavailable(message: string, hint: string, cause: unknown): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", message, {
    hint,
    ...(cause === undefined ? {} : { cause: bareError(cause instanceof NotSent ? (cause.cause ?? cause) : cause) }),
  });
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
    case "NOPERM":
    case "WRONGPASS":
      return unavailable(`Redis does not allow ${name}`, "Check the user, the password and the ACL.", error);
    case "OOM":
      return unavailable("Redis has no memory left", "Raise maxmemory, or set an eviction policy.", error);
    default:
      return unavailable(`Redis refused ${name}`, "See the cause.", error);
  }
}
