import { setImmediate } from "node:timers/promises";

/** A request, from whatever server it came. */
export interface Incoming {
  readonly method: string;
  /** Its path and query, as they came; an origin before them is left out of account. */
  readonly url: string;
  /** A header by its name in lower case; `null` where there is none. */
  header(name: string): string | null;
  /** Hands over the body in pieces as it arrives, and lets other requests have their turn in between. */
  read(take: (piece: Uint8Array) => void): BodyReading;
}

/** A body that is being read. */
export interface BodyReading {
  /** Resolves at the end of the body; rejects with what `take` threw, or where the body breaks off. */
  readonly done: Promise<void>;
  /** Reads no further. */
  stop(): void;
}

/** What is answered, to whatever server asked. */
export interface Answer {
  readonly status: number;
  /** Names are in lower case. */
  readonly headers: Record<string, string>;
  /** Pieces are made while they are sent, so that no single step takes long. */
  readonly body?: string | Uint8Array | AsyncGenerator<Uint8Array>;
}

/** How many bytes are worked on before other requests have their turn: less than a millisecond's work. */
export const turnBytes = 2 ** 17;

/** Lets other requests have their turn between the steps of a long one. */
export class Turns {
  #sinceTurn = 0;

  /** To be awaited after each step, with how many bytes it worked on. */
  async worked(bytes: number): Promise<void> {
    this.#sinceTurn += bytes;
    if (this.#sinceTurn < turnBytes) return;
    this.#sinceTurn = 0;
    await setImmediate();
  }
}

/** How many bytes of a long answer are sent at once. */
export const pieceBytes = 2 ** 16;

/** An answer of JSON. */
export function jsonAnswer(body: unknown): Answer {
  return { status: 200, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}
