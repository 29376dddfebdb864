import type { AtomicStore, ScannableStore, StoredValue } from "./capabilities.ts";
import { type Place, readHeader } from "./envelope.ts";
import { KeywardError } from "./errors.ts";
import { reservedNamespace, wrapRejection } from "./inner-store.ts";
import type { Keyring } from "./keyring.ts";
import { pages } from "./page-size.ts";
import type { OpenedRecord, RecordCodec } from "./record-codec.ts";

const scopedPrefix = "check/";
const pageSize = 1_000;

/**
 * A sealed record in the reserved space that a ring must open before it writes anything: a process with the wrong key
 * learns so at its first write, and not by destroying what it cannot read.
 */
export class CheckRecord {
  readonly #reserved: (AtomicStore & ScannableStore) | undefined;
  readonly #codec: RecordCodec;
  readonly #scope: string | undefined;
  readonly #unscoped: CheckRecord | undefined;
  readonly #passed = new WeakSet<Keyring>();
  readonly #passing = new WeakMap<Keyring, Promise<void>>();

  /**
   * @param scoped for a store with a scope: its name, and the record of the unscoped ring, which must open too. A ring
   * of other material would otherwise found a scope of its own.
   */
  constructor(
    reserved: (AtomicStore & ScannableStore) | undefined,
    codec: RecordCodec,
    scoped: { readonly scope: string; readonly unscoped: CheckRecord } | undefined,
  ) {
    this.#reserved = reserved;
    this.#codec = codec;
    this.#scope = scoped?.scope;
    this.#unscoped = scoped?.unscoped;
  }

  /**
   * Resolves when this ring may write, `undefined` when it is known already.
   *
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring cannot open the record.
   */
  pass(ring: Keyring): Promise<void> | undefined {
    if (this.#reserved === undefined || this.#passed.has(ring)) return undefined;
    let passing = this.#passing.get(ring);
    if (passing === undefined) {
      passing = this.#verify(this.#reserved, ring)
        .then(() => {
          this.#passed.add(ring);
        })
        .finally(() => this.#passing.delete(ring));
      this.#passing.set(ring, passing);
    }
    return passing;
  }

  /** Takes the record along to the ring's primary, so that no key is needed for its sake alone. */
  async renew(ring: Keyring): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.renew(unscopedRing));
    if (this.#reserved === undefined || ring.primary === "") return;
    const place = this.#place(ring);
    const stored = await read(this.#reserved, place);
    if (stored !== undefined) await this.#follow(this.#reserved, ring, stored, place);
  }

  /**
   * The latest generation that whoever writes here must have, as {@link CheckRecord.raise} left it; 0 where there is none.
   *
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring cannot open the record.
   */
  async generation(ring: Keyring): Promise<number> {
    if (this.#reserved === undefined) return 0;
    const place = this.#place(ring);
    const stored = await read(this.#reserved, place);
    return stored === undefined ? 0 : generationOf((await this.#open(stored, place)).content.value);
  }

  /**
   * Has the record say that this generation is there to be loaded, and those of all scopes: a process that was handed the
   * ring of its scope sees no other. Seals them under the primary of this ring, which may be one that is about to come into
   * use.
   *
   * @param ring as its source has it, not scoped for the store.
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring in use cannot open the record.
   */
  async raise(ring: Keyring): Promise<void> {
    const reserved = this.#reserved;
    if (reserved === undefined || ring.primary === "") return;
    if (ring.scopeName === undefined) await this.#unscoped?.raise(ring);
    await this.#raiseOwn(reserved, ring);
    if (this.#scope !== undefined || ring.scopeName !== undefined) return;
    for (const scope of await scopesIn(reserved)) {
      const record = new CheckRecord(reserved, this.#codec.forScope(scope), { scope, unscoped: this });
      await record.#raiseOwn(reserved, ring).catch((error: unknown) => {
        if (!isNobodys(error)) throw error;
      });
    }
  }

  async #raiseOwn(reserved: AtomicStore, ring: Keyring): Promise<void> {
    const scoped = this.#scope === undefined || ring.scopeName !== undefined ? ring : ring.scope(this.#scope);
    const place = this.#place(scoped);
    for (;;) {
      const stored = await read(reserved, place);
      if (stored !== undefined) {
        const { content } = await this.#open(stored, place);
        if (generationOf(content.value) >= ring.generation) return;
      }
      if (await wrapRejection(() => reserved.replace(place.key, stored, this.#sealed(scoped, place)))) return;
    }
  }

  /** Writes the record anew under the ring's primary, whether or not the ring opens the one that lies there. */
  async overwrite(ring: Keyring): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.overwrite(unscopedRing));
    const reserved = this.#reserved;
    if (reserved === undefined || ring.primary === "") return;
    const place = this.#place(ring);
    await wrapRejection(() => reserved.set(place.key, this.#sealed(ring, place)));
  }

  async #ofUnscoped(use: (record: CheckRecord, ring: Keyring) => Promise<void> | undefined): Promise<void> {
    if (this.#unscoped === undefined) return;
    const ring = await this.#unscoped.#codec.ring();
    // Whoever was handed a scoped ring cannot open the record of the unscoped one, and is not meant to.
    if (ring.scopeName === undefined) await use(this.#unscoped, ring);
  }

  async #verify(reserved: AtomicStore & ScannableStore, ring: Keyring): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.pass(unscopedRing));
    const place = this.#place(ring);
    const stored = await read(reserved, place);
    if (stored !== undefined) return await this.#follow(reserved, ring, stored, place);
    if (ring.primary === "") return;
    // Only one of several new processes may found the store; the others must open what it wrote.
    if (await wrapRejection(() => reserved.replace(place.key, undefined, this.#sealed(ring, place)))) return;
    await this.#verify(reserved, ring);
  }

  /** Opens the record, and seals it under the ring's primary, unless a later generation of the ring wrote it. */
  async #follow(reserved: AtomicStore, ring: Keyring, stored: StoredValue, place: Place): Promise<void> {
    const { content, current } = await this.#open(stored, place);
    if (current || generationOf(content.value) > ring.generation) return;
    await wrapRejection(() => reserved.replace(place.key, stored, this.#sealed(ring, place)));
  }

  async #open(stored: StoredValue, place: Place): Promise<OpenedRecord> {
    try {
      if (readHeader(stored, place) !== undefined) return await this.#codec.open(stored, place);
    } catch (cause) {
      throw refused(cause);
    }
    throw refused(undefined);
  }

  #place(ring: Keyring): Place {
    // A ring may have been scoped before it was handed over.
    const scope = this.#scope ?? ring.scopeName;
    return { namespace: reservedNamespace, key: scope === undefined ? "check" : `${scopedPrefix}${scope}` };
  }

  #sealed(ring: Keyring, place: Place): StoredValue {
    return this.#codec.seal(ring, place, {
      value: JSON.stringify({ keyward: "check", generation: ring.generation }),
    });
  }
}

async function scopesIn(reserved: ScannableStore): Promise<Set<string>> {
  const scopes = new Set<string>();
  for await (const entries of pages(reserved, pageSize)) {
    for (const { key } of entries) if (key.startsWith(scopedPrefix)) scopes.add(key.slice(scopedPrefix.length));
  }
  return scopes;
}

async function read(reserved: AtomicStore, { key }: Place): Promise<StoredValue | undefined> {
  const stored: unknown = await wrapRejection(() => reserved.get(key));
  return typeof stored === "string" || stored instanceof Uint8Array ? stored : undefined;
}

/** Whether no process with this ring can write in that scope, which may be no name of one. */
function isNobodys(error: unknown): boolean {
  return error instanceof KeywardError && (error.code === "OVERWRITE_REFUSED" || error.code === "KEYRING_INVALID");
}

function generationOf(value: StoredValue): number {
  const content: unknown = JSON.parse(String(value));
  const generation =
    typeof content === "object" && content !== null && "generation" in content ? content.generation : undefined;
  return typeof generation === "number" ? generation : 0;
}

function refused(cause: unknown): KeywardError {
  const keyId = cause instanceof KeywardError ? cause.keyId : undefined;
  return new KeywardError(
    "OVERWRITE_REFUSED",
    "Nothing was written: this keyring cannot open the store's check record, so it could not read what it would overwrite",
    {
      keyId,
      cause,
      hint: "Give this process the keyring the store was written with. If that ring is gone for good: store.overwriteCheckRecord().",
    },
  );
}
