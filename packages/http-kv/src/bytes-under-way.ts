import { Refusal } from "./protocol.ts";

/** What one request holds in memory. */
export interface HeldBytes {
  /** How many it holds. */
  readonly bytes: number;
  /** Counts so many more, and says whether there is room for them; where there is none, it counts nothing. */
  fits(bytes: number): boolean;
  /**
   * As {@link HeldBytes.fits}.
   *
   * @throws Refusal `OVERLOADED` where there is no room.
   */
  add(bytes: number): void;
  /** Counts so many less. */
  giveBack(bytes: number): void;
  /** Holds nothing any more, and never again. */
  release(): void;
}

const retryAfterSeconds = 1;

/**
 * Bounds what the requests of a process hold together. No tenant may hold more than it leaves free: one alone has half,
 * two have a third each, and a further one always finds as much as each of the others has.
 */
export class BytesUnderWay {
  readonly #most: number;
  readonly #ofTenants = new Map<string, number>();
  #held = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** Begins to count for a request. */
  open(tenant: string): HeldBytes {
    return new Holding((bytes) => this.#take(tenant, bytes));
  }

  /** Takes bytes, or gives them back where the number is negative; says whether there was room. */
  #take(tenant: string, bytes: number): boolean {
    const ofTenant = (this.#ofTenants.get(tenant) ?? 0) + bytes;
    if (bytes > 0 && ofTenant > this.#most - this.#held - bytes) return false;
    this.#held += bytes;
    if (ofTenant === 0) this.#ofTenants.delete(tenant);
    else this.#ofTenants.set(tenant, ofTenant);
    return true;
  }
}

class Holding implements HeldBytes {
  readonly #take: (bytes: number) => boolean;
  #bytes = 0;
  #released = false;

  constructor(take: (bytes: number) => boolean) {
    this.#take = take;
  }

  get bytes(): number {
    return this.#bytes;
  }

  fits(bytes: number): boolean {
    if (this.#released || !this.#take(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }

  add(bytes: number): void {
    if (!this.fits(bytes)) throw new Refusal("OVERLOADED", "Too many bytes are under way", retryAfterSeconds);
  }

  giveBack(bytes: number): void {
    if (this.#released) return;
    this.#take(-bytes);
    this.#bytes -= bytes;
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#take(-this.#bytes);
    this.#bytes = 0;
  }
}

const dropped = new FinalizationRegistry<HeldBytes>((held) => held.release());

/** A runtime may drop an answer that nobody waits for any more without a word: then it is free as soon as it is gone. */
export function releasedAtEnd(answer: ReadableStream, held: HeldBytes): void {
  dropped.register(answer, held);
}
