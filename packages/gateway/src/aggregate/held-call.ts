import { randomBytes } from "node:crypto";
import type { CallerAnswer } from "./caller-answer.ts";
import type { Json, JsonObject } from "./json.ts";
import { isObject } from "./json.ts";
import { type Asking, codes, type Outcome } from "./messages.ts";
import type { CallEnd } from "./server-call.ts";

const prefix = "keyward-call.";
/** How long a caller may take to answer the questions of a server, in milliseconds. */
const heldMs = 5 * 60_000;

/**
 * A call by a caller of the modern protocol. During the call, a server of the legacy protocol may ask the caller questions.
 * The gateway returns the questions as the result, and keeps the call open until the caller's next request has the answers.
 */
export class HeldCall {
  /** The opaque text that identifies this call. The caller sends it back with its answers. */
  readonly state = `${prefix}${randomBytes(24).toString("base64url")}`;
  /** The method and the name of the call, so that answers to one call are not used for another call. */
  readonly name: string;
  readonly #leaving = new AbortController();
  readonly #questions = new Map<string, { readonly asking: Asking; readonly resolve: (outcome: Outcome) => void }>();
  /** The keys of the questions that were sent to the caller. */
  readonly #shown = new Set<string>();
  #asked = Promise.withResolvers<void>();
  #answer: CallerAnswer | undefined;
  #end: Promise<CallEnd> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lastKey = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** Returns true if a text has the form of {@link HeldCall.state}. */
  static isState(text: string): boolean {
    return text.startsWith(prefix);
  }

  /** Fires when the call to the server must be cancelled. */
  get signal(): AbortSignal {
    return this.#leaving.signal;
  }

  /** Starts the call with `run`. Calls `ended` when the call is over. */
  begin(run: () => Promise<CallEnd>, ended: () => void): void {
    this.#end = run().finally(() => {
      clearTimeout(this.#timer);
      ended();
    });
    // The caller may disconnect before the call is over. Then nobody reads the result.
    this.#end.catch(() => {});
  }

  /** Sends a message of the server to the caller, in the answer to the request that waits for the result. */
  async notify(text: string): Promise<void> {
    await this.#answer?.send(text);
  }

  /** Asks the caller a question of the server: the waiting request gets the question as its result. */
  async ask(asking: Asking): Promise<Outcome> {
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    this.#questions.set(`question-${++this.#lastKey}`, { asking, resolve });
    this.#asked.resolve();
    return await promise;
  }

  /** Passes the caller's answers on to the server. Keeps the questions that the caller has not seen yet. */
  take(responses: JsonObject): void {
    clearTimeout(this.#timer);
    for (const key of this.#shown) {
      const response = Object.hasOwn(responses, key) ? responses[key] : undefined;
      this.#questions.get(key)?.resolve(isObject(response) ? { result: response } : unanswered());
      this.#questions.delete(key);
    }
    this.#shown.clear();
    this.#asked = Promise.withResolvers();
    if (this.#questions.size > 0) this.#asked.resolve();
  }

  /** Waits for the result of the call, or for questions of the server. Cancels the call if the caller disconnects. */
  async next(answer: CallerAnswer): Promise<CallEnd> {
    this.#answer = answer;
    const left = () => this.leave();
    answer.closed.addEventListener("abort", left, { once: true });
    const asked = this.#asked.promise.then(() => undefined);
    const end = await Promise.race([this.#end, asked]);
    answer.closed.removeEventListener("abort", left);
    this.#answer = undefined;
    if (end !== undefined) return end;
    this.#timer = setTimeout(left, heldMs).unref();
    const inputRequests: Record<string, Json> = {};
    for (const [key, { asking }] of this.#questions) {
      inputRequests[key] = { method: asking.method, params: asking.params ?? {} };
      this.#shown.add(key);
    }
    const result = { resultType: "input_required", inputRequests, requestState: this.state };
    return { member: `"result":${JSON.stringify(result)}`, error: undefined };
  }

  /** Cancels the call, and answers its open questions with an error. */
  leave(): void {
    clearTimeout(this.#timer);
    this.#leaving.abort(new Error("The caller has left"));
    for (const { resolve } of this.#questions.values()) resolve(unanswered());
    this.#questions.clear();
  }
}

function unanswered(): Outcome {
  return { error: { code: codes.server, message: "The caller did not answer" } };
}
