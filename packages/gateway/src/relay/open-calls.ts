import type {
  CallEnd,
  CallSecret,
  OpenCall as CheckedCall,
  SearchedCall,
  SecretsReader,
} from "@keyward/secrets/reader";
import { GatewayProblem } from "../problem.ts";
import { serverTimeout } from "./dialing-problem.ts";
import type { RelayedAnswer } from "./relayed-answer.ts";

/** A call that is in progress. */
export interface OpenCall extends CheckedCall, SearchedCall {
  /** Set when the body of the request was read. */
  tool: string | undefined;
  /** Ends the call before the server is called. */
  readonly refuse: (problem: GatewayProblem) => void;
  /** `undefined` until the server is called. */
  answer: RelayedAnswer | undefined;
  searchedRevision: number;
  /** Also searches the rest of the answer for the values of `secrets`. Does nothing until the server is called. */
  searchFor: (secrets: readonly CallSecret[]) => void;
}

const checkedEveryMs = 1_000;

/**
 * The calls in progress. Each second, the tokens and servers of all of them are read again. A call whose token was
 * revoked, or whose server was disabled, is ended. A stream is searched for values that were set meanwhile.
 */
export class OpenCalls {
  readonly #reader: SecretsReader;
  readonly #silenceMs: number;
  readonly #onProblem: (problem: unknown) => void;
  readonly #open = new Set<OpenCall>();
  readonly #timer: NodeJS.Timeout;
  #isChecking = false;
  #isClosing = false;

  constructor(
    reader: SecretsReader,
    { silenceMs, onProblem }: { readonly silenceMs: number; readonly onProblem: (problem: unknown) => void },
  ) {
    this.#reader = reader;
    this.#silenceMs = silenceMs;
    this.#onProblem = onProblem;
    this.#timer = setInterval(() => void this.#check(), checkedEveryMs).unref();
  }

  get size(): number {
    return this.#open.size;
  }

  /** Counts a call as open while `run` runs. */
  async during(call: OpenCall, run: () => Promise<void>): Promise<void> {
    this.#open.add(call);
    try {
      await run();
    } finally {
      this.#open.delete(call);
    }
  }

  /**
   * Ends each stream of events that was opened with GET, between two of its events. The other calls go on: the stream that
   * answers a POST carries the result of the call.
   */
  endStreams(): void {
    this.#isClosing = true;
    this.#endStreams(true);
  }

  /** Stops the checks. */
  close(): void {
    clearInterval(this.#timer);
  }

  async #check(): Promise<void> {
    const nowMs = performance.now();
    for (const { answer } of this.#open) {
      answer?.keepAlive(nowMs);
      if (answer !== undefined && !answer.isEventStream && answer.silentMs(nowMs) > this.#silenceMs) {
        answer.fail(serverTimeout());
      }
    }
    // After one second, a stream is ended even in the middle of an event.
    if (this.#isClosing) this.#endStreams(false);
    if (this.#isChecking || this.#open.size === 0) return;
    this.#isChecking = true;
    try {
      await Promise.all([this.#endRefused(), this.#searchForNewValues()]);
    } catch (error) {
      this.#onProblem(error);
    } finally {
      this.#isChecking = false;
    }
  }

  async #endRefused(): Promise<void> {
    for (const { call, reason } of await this.#reader.stillAllowed([...this.#open])) {
      const { answer } = call;
      const problem = noLongerAllowed(reason);
      if (answer === undefined) call.refuse(problem);
      else if (answer.isEventStream) answer.endStream(problem, false);
      else answer.fail(problem);
    }
  }

  /** Lets open streams be searched for values that were set after they began, even by another process. */
  async #searchForNewValues(): Promise<void> {
    const streams = [...this.#open].filter(({ answer }) => answer?.isEventStream === true);
    for (const { call, secrets, revision } of await this.#reader.newSecrets(streams)) {
      // A call that has ended since has released its values.
      if (!this.#open.has(call)) continue;
      call.searchFor(secrets);
      call.searchedRevision = Math.max(call.searchedRevision, revision);
    }
  }

  #endStreams(mayWait: boolean): void {
    for (const { answer, method } of this.#open) {
      if (answer?.isEventStream === true && method === "GET") answer.endStream(closing(), mayWait);
    }
  }
}

/** Returns the problem for a call that is refused or ended because this process is shutting down. */
export function closing(): GatewayProblem {
  return new GatewayProblem("SERVICE_CLOSING", "This process of the gateway is shutting down", {
    hint: "Repeat the call. Another process answers it, or this one after its restart.",
  });
}

/** Returns the problem of a call that an admin has ended by a change. The token may still call other servers if the server was changed. */
function noLongerAllowed(reason: CallEnd): GatewayProblem {
  const isOfServer = reason === "SERVER_DISABLED" || reason === "SERVER_REMOVED" || reason === "TOKEN_NARROWED";
  return new GatewayProblem(
    isOfServer ? "SERVER_NOT_FOUND" : "TOKEN_REFUSED",
    "The token may no longer call this server",
    {
      hint: "Ask an admin of the workspace. The token was revoked or has expired, or the server was changed, disabled or deleted.",
    },
  );
}
