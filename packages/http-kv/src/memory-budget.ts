import { Refusal } from "./protocol.ts";

/** The memory that a request has reserved in a {@link MemoryBudget}. */
export interface RequestMemory {
  /** Number of bytes that the request has reserved. */
  readonly bytes: number;
  /** Reserves more bytes if enough memory is free. Returns whether the bytes were reserved. */
  tryReserve(bytes: number): boolean;
  /**
   * Reserves more bytes.
   *
   * @throws Refusal `OVERLOADED` if too little of `maxBytesInMemory` is free.
   */
  reserve(bytes: number): void;
  /** Gives back `bytes` of the reserved bytes, so that other requests can reserve them. */
  giveBack(bytes: number): void;
  /** Gives back all reserved bytes. After that, the request can reserve nothing more. */
  release(): void;
}

const retryAfterSeconds = 1;

/**
 * Limits how many bytes all requests of a process have in memory together. When a tenant reserves bytes, at least as
 * many bytes must stay free as this tenant has reserved in total. So a single tenant gets half of the memory limit, two
 * tenants get a third each, and a new tenant always finds as much free memory as each other tenant has reserved.
 */
export class MemoryBudget {
  readonly #maxBytes: number;
  readonly #bytesOfTenants = new Map<string, number>();
  #reservedBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Returns the memory of a new request of this tenant. No bytes are reserved yet. */
  open(tenant: string): RequestMemory {
    return new Reservation((bytes) => this.#change(tenant, bytes));
  }

  /** Reserves bytes, or gives them back if the number is negative. Returns false if too little memory is free. */
  #change(tenant: string, bytes: number): boolean {
    const ofTenant = (this.#bytesOfTenants.get(tenant) ?? 0) + bytes;
    if (bytes > 0 && ofTenant > this.#maxBytes - this.#reservedBytes - bytes) return false;
    this.#reservedBytes += bytes;
    if (ofTenant === 0) this.#bytesOfTenants.delete(tenant);
    else this.#bytesOfTenants.set(tenant, ofTenant);
    return true;
  }
}

class Reservation implements RequestMemory {
  readonly #change: (bytes: number) => boolean;
  #bytes = 0;
  #released = false;

  constructor(change: (bytes: number) => boolean) {
    this.#change = change;
  }

  get bytes(): number {
    return this.#bytes;
  }

  tryReserve(bytes: number): boolean {
    if (this.#released || !this.#change(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }

  reserve(bytes: number): void {
    if (this.tryReserve(bytes)) return;
    throw new Refusal(
      "OVERLOADED",
      "The requests in progress leave too little memory for this request",
      retryAfterSeconds,
    );
  }

  giveBack(bytes: number): void {
    if (this.#released) return;
    this.#change(-bytes);
    this.#bytes -= bytes;
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#change(-this.#bytes);
    this.#bytes = 0;
  }
}

const memoryOfDropped = new FinalizationRegistry<RequestMemory>((memory) => memory.release());

/**
 * Releases the memory of a request when the answer to the request is garbage-collected. If the client has disconnected,
 * a runtime may drop the answer without reading or cancelling it.
 */
export function releaseWhenDropped(answer: ReadableStream, memory: RequestMemory): void {
  memoryOfDropped.register(answer, memory);
}
