import { Worker } from "node:worker_threads";
import { KeywardError } from "@keyward/core";
import type { AuditFileOptions } from "./audit-file.ts";
import type { AuditAnswer, AuditRequest, SentRequest } from "./audit-rows.ts";

/** How long a write may wait for the thread before it is refused, in milliseconds. */
export const longestQueueMs = 5_000;

interface WaitingRequest {
  readonly settle: (answer: AuditAnswer) => void;
  readonly fail: (error: KeywardError) => void;
}

/**
 * The worker thread of an audit file, as the main thread sees it. Starts the thread with the first request, and again
 * after the thread has ended unexpectedly.
 */
export class AuditThread {
  readonly #options: AuditFileOptions;
  readonly #waiting = new Map<number, WaitingRequest>();
  #worker: Worker | undefined;
  #lastId = 0;
  #closed = false;

  constructor(options: AuditFileOptions) {
    this.#options = options;
  }

  get path(): string {
    return this.#options.path;
  }

  /**
   * Sends a request to the thread, and resolves to its result. `Result` must be the type of the result of this request.
   *
   * @throws KeywardError `STORE_INVALID` if the file is refused; `STORE_UNAVAILABLE` if the file cannot be read or
   * written now, or the thread has ended.
   */
  request<Result>(request: AuditRequest): Promise<Result> {
    if (this.#closed) {
      return Promise.reject(
        new KeywardError("STORE_UNAVAILABLE", `The audit file ${this.path} is closed`, {
          hint: "Open the audit again.",
        }),
      );
    }
    const worker = this.#start();
    const id = ++this.#lastId;
    return new Promise<Result>((resolve, reject) => {
      const settle = (answer: AuditAnswer) => {
        // The worker thread is part of this package, so the type of its result is not checked again.
        const message: object = answer;
        if ("problem" in answer) reject(toKeywardError(answer));
        else resolve(Reflect.get(message, "result"));
      };
      this.#waiting.set(id, { settle, fail: reject });
      // The process stays alive while a request is in progress.
      worker.ref();
      const latestStart = process.hrtime.bigint() + BigInt(longestQueueMs * 1e6);
      const sent: SentRequest = { id, request, latestStart };
      worker.postMessage(sent);
    });
  }

  /** Closes the file and ends the thread. A second call does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const worker = this.#worker;
    const closing = worker === undefined ? undefined : this.request({ method: "close" });
    this.#closed = true;
    await closing?.catch(() => undefined);
    await worker?.terminate();
  }

  #start(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    // From source this file is TypeScript, and in the published package JavaScript.
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const worker = new Worker(new URL(`./audit-worker.${extension}`, import.meta.url), {
      workerData: this.#options,
      name: "keyward-audit",
    });
    worker.unref();
    worker.on("message", (answer: AuditAnswer) => {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if (this.#waiting.size === 0) worker.unref();
      waiting?.settle(answer);
    });
    worker.on("error", (error) => this.#end(worker, error));
    worker.on("exit", () => this.#end(worker, undefined));
    this.#worker = worker;
    return worker;
  }

  #end(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    const error = new KeywardError("STORE_UNAVAILABLE", `The thread that writes ${this.path} has ended`, {
      hint: "The next call starts the thread again. If the error returns, read its `cause` and the log of the process.",
      cause,
    });
    for (const { fail } of waiting) fail(error);
  }
}

function toKeywardError({ problem, cause }: Extract<AuditAnswer, { problem: object }>): KeywardError {
  const { kind, message, hint } = problem;
  return new KeywardError(kind === "refused" ? "STORE_INVALID" : "STORE_UNAVAILABLE", message, {
    hint,
    cause: cause === undefined ? undefined : new Error(cause),
  });
}
