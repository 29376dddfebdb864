import { randomBytes } from "node:crypto";
import type { CallerAnswer } from "./caller-answer.ts";
import type { Json, JsonObject } from "./json.ts";
import { isObject } from "./json.ts";
import { type Asking, codes, type Outcome } from "./messages.ts";
import type { CallEnd } from "./server-call.ts";

const prefix = "keyward-call.";
/** How long a caller may take to answer what a server asks. */
const heldMs = 5 * 60_000;

/**
 * A call of a caller of the modern protocol. A server of the legacy protocol may ask the caller something in the middle of
 * the call. Then the caller gets the questions as a result, and the call goes on when the caller sends the answers.
 */
export class HeldCall {
  /** What the caller sends back with its answers. */
  readonly state = `${prefix}${randomBytes(24).toString("base64url")}`;
  /** What is called, so that answers to one call cannot go to another one. */
  readonly name: string;
  readonly #leaving = new AbortController();
  readonly #questions = new Map<string, { readonly asking: Asking; readonly resolve: (outcome: Outcome) => void }>();
  /** The questions that the caller has seen. */
  readonly #shown = new Set<string>();
  #asked = Promise.withResolvers<void>();
  #answer: CallerAnswer | undefined;
  #end: Promise<CallEnd> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lastKey = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** Returns true for a state that a call of the gateway gave. */
  static isState(text: string): boolean {
    return text.startsWith(prefix);
  }

  /** Fires when the call must end. */
  get signal(): AbortSignal {
    return this.#leaving.signal;
  }

  /** Begins the call. `ended` is called when the call has ended. */
  begin(run: () => Promise<CallEnd>, ended: () => void): void {
    this.#end = run().finally(() => {
      clearTimeout(this.#timer);
      ended();
    });
    // The caller may have left before the end.
    this.#end.catch(() => {});
  }

  /** Sends a message of the server to the request that waits for the end. */
  async notify(text: string): Promise<void> {
    await this.#answer?.send(text);
  }

  /** Asks the caller with the result of the request that waits for the end. */
  async ask(asking: Asking): Promise<Outcome> {
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    this.#questions.set(`question-${++this.#lastKey}`, { asking, resolve });
    this.#asked.resolve();
    return await promise;
  }

  /** Takes the answers of the caller. Questions that the caller has not seen yet stay. */
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

  /** Waits for the end of the call, or for questions of the server. Ends the call if the caller leaves. */
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

  /** Ends the call. */
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
