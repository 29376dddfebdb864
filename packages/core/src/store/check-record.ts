import { keyIdIn, open, readHeader } from "../envelope/envelope.ts";
import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { type Keyring, keyOf, keysIn } from "../keyring/keyring.ts";
import type { Recognition } from "../keyring/keyring-successor.ts";
import {
  type AtomicStore,
  isStoredValue,
  type ScannableStore,
  type StoredValue,
} from "../store-interface/capabilities.ts";
import { type InnerStore, wrapRejection } from "../store-interface/inner-store.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import { heartbeatPrefix, readHeartbeatKey } from "./heartbeat.ts";
import type { OpenedRecord, RecordCodec } from "./record-codec.ts";
import { ReservedText } from "./reserved-text.ts";

/** What the keys of the records of scopes begin with; the rest is the name of the scope. */
export const scopedPrefix = "check/";
const pageSize = 1_000;
const maxWitnesses = 100;
const maxWitnessPages = 10;

/** What a check record needs of the store that it stands in. */
export type CheckedStore = Pick<InnerStore, "reserved" | "scannable" | "description">;

/**
 * A sealed record in the reserved space that a ring must open before it writes anything: a process with the wrong key
 * learns so at its first write, and not by destroying what it cannot read.
 */
export class CheckRecord {
  readonly #inner: CheckedStore;
  readonly #reserved: (AtomicStore & ScannableStore) | undefined;
  readonly #codec: RecordCodec;
  readonly #scope: string | undefined;
  readonly #unscoped: CheckRecord | undefined;
  readonly #passed = new WeakSet<Keyring>();
  #hasPassed = false;
  readonly #passing = new WeakMap<Keyring, Promise<void>>();

  /**
   * @param scoped for a store with a scope: its name, and the record of the unscoped ring, which must open too. A ring
   * of other material would otherwise found a scope of its own.
   */
  constructor(
    inner: CheckedStore,
    codec: RecordCodec,
    scoped: { readonly scope: string; readonly unscoped: CheckRecord } | undefined,
  ) {
    this.#inner = inner;
    this.#reserved = inner.reserved;
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
    return this.#passFor(ring, undefined);
  }

  /** @param forScope of a store whose records may be all that the store holds. */
  #passFor(ring: Keyring, forScope: string | undefined): Promise<void> | undefined {
    if (this.#reserved === undefined || this.#passed.has(ring)) return undefined;
    let passing = this.#passing.get(ring);
    if (passing === undefined) {
      passing = this.#verify(this.#reserved, ring, forScope)
        .then(() => {
          this.#passed.add(ring);
          this.#hasPassed = true;
        })
        .finally(() => this.#passing.delete(ring));
      this.#passing.set(ring, passing);
    }
    return passing;
  }

  /**
   * Whether the record of the unscoped ring opens under a ring that is to replace another, and under that. `undefined` where
   * it opens under neither: then it shows nothing. A disabled key opens here, since the ring still has it.
   *
   * @param previous as its source has it, not scoped for the store; likewise `next`.
   */
  async recognizes(next: Keyring, previous: Keyring): Promise<Recognition | undefined> {
    if (this.#unscoped !== undefined) return await this.#unscoped.recognizes(next, previous);
    if (this.#reserved === undefined) return undefined;
    const address = this.#address(previous);
    const stored = await read(this.#reserved, address);
    const hadRightRing = this.#hasPassed;
    if (stored === undefined) return { next: false, previous: false, hadRightRing };
    const opens = { next: this.#opens(next, stored, address), previous: this.#opens(previous, stored, address) };
    return opens.next || opens.previous ? { ...opens, hadRightRing } : undefined;
  }

  /** Takes the record along to the ring's primary, so that no key is needed for its sake alone. */
  async renew(ring: Keyring): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.renew(unscopedRing));
    if (this.#reserved === undefined || ring.primary === "") return;
    const address = this.#address(ring);
    const stored = await read(this.#reserved, address);
    if (stored !== undefined) await this.#follow(this.#reserved, ring, stored, address);
  }

  /**
   * The latest generation that whoever writes here must have, as {@link CheckRecord.raise} left it; 0 where there is none.
   *
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring cannot open the record.
   */
  async generation(ring: Keyring): Promise<number> {
    if (this.#reserved === undefined) return 0;
    const address = this.#address(ring);
    const stored = await read(this.#reserved, address);
    return stored === undefined ? 0 : (saidBy(await this.#open(stored, address))?.generation ?? 0);
  }

  /**
   * Has the record say that this generation is there to be loaded, and those of all scopes: a process that was handed the
   * ring of its scope sees no other. Sealed under the primary of this ring.
   *
   * @param ring as its source has it, not scoped for the store.
   * @throws KeywardError `OVERWRITE_REFUSED` with the cause when the ring in use cannot open the record.
   */
  async raise(ring: Keyring): Promise<void> {
    await this.#say(ring, ring.generation);
  }

  /**
   * Seals the records under the primary of a ring that is about to come into use, and has nobody wait for that ring: it may
   * never be saved. Whoever has an earlier one leaves them there.
   *
   * @param current as its source has it, not scoped for the store.
   * @throws KeywardError as {@link CheckRecord.raise}.
   */
  async prepare(next: Keyring, current: Keyring): Promise<void> {
    await this.#say(next, current.generation);
  }

  /** Writes the record anew under the ring's primary, whether or not the ring opens the one that lies there. */
  async overwrite(ring: Keyring): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.overwrite(unscopedRing));
    const reserved = this.#reserved;
    if (reserved === undefined || ring.primary === "") return;
    const address = this.#address(ring);
    await wrapRejection(() => reserved.set(address.key, this.#sealed(ring, address)));
  }

  async #say(ring: Keyring, generation: number): Promise<void> {
    const reserved = this.#reserved;
    if (reserved === undefined || ring.primary === "") return;
    if (ring.scopeName === undefined && this.#unscoped !== undefined) await this.#unscoped.#say(ring, generation);
    await this.#sayOwn(reserved, ring, generation);
    if (this.#scope !== undefined || ring.scopeName !== undefined) return;
    for (const scope of await scopesIn(reserved, ring)) {
      const record = new CheckRecord(this.#inner, this.#codec.forScope(scope), { scope, unscoped: this });
      await record.#sayOwn(reserved, ring, generation).catch((error: unknown) => {
        if (!isNobodys(error)) throw error;
      });
    }
  }

  async #sayOwn(reserved: AtomicStore, ring: Keyring, generation: number): Promise<void> {
    const scoped = this.#scope === undefined || ring.scopeName !== undefined ? ring : ring.scope(this.#scope);
    const address = this.#address(scoped);
    for (;;) {
      const stored = await read(reserved, address);
      const opened = stored === undefined ? undefined : await this.#open(stored, address);
      const said = opened === undefined ? undefined : await this.#borneOut(reserved, opened, ring);
      if (said !== undefined && said.generation >= generation && said.sealedBy >= ring.generation) return;
      // Somebody else may have raised it meanwhile: what is demanded never falls.
      const sealed = this.#sealed(scoped, address, Math.max(generation, said?.generation ?? 0));
      if (await wrapRejection(() => reserved.replace(address.key, stored, sealed))) return;
    }
  }

  /**
   * What the record says; `undefined` for nonsense, and for the record of a scope which says more than this ring and the
   * record of the unscoped ring bear out. That record is raised first, and whoever holds the ring of the scope alone cannot
   * write it: so such a process can neither demand a generation that no ring has, nor keep its own record from being
   * re-encrypted.
   */
  async #borneOut(reserved: AtomicStore, opened: OpenedRecord, { generation }: Keyring): Promise<Said | undefined> {
    const said = saidBy(opened);
    const unscoped = this.#unscoped;
    if (said === undefined || unscoped === undefined || Math.max(said.generation, said.sealedBy) <= generation)
      return said;
    const ring = await unscoped.#codec.ring();
    if (ring.scopeName !== undefined) return said;
    const address = unscoped.#address(ring);
    const stored = await read(reserved, address);
    const most = stored === undefined ? undefined : saidBy(await unscoped.#open(stored, address));
    const isBorneOut =
      said.generation <= Math.max(generation, most?.generation ?? 0) &&
      said.sealedBy <= Math.max(generation, most?.sealedBy ?? 0);
    return isBorneOut ? said : undefined;
  }

  async #ofUnscoped(use: (record: CheckRecord, ring: Keyring) => Promise<void> | undefined): Promise<void> {
    if (this.#unscoped === undefined) return;
    const ring = await this.#unscoped.#codec.ring();
    // Whoever was handed a scoped ring cannot open the record of the unscoped one, and is not meant to.
    if (ring.scopeName === undefined) await use(this.#unscoped, ring);
  }

  async #verify(reserved: AtomicStore & ScannableStore, ring: Keyring, forScope: string | undefined): Promise<void> {
    await this.#ofUnscoped((record, unscopedRing) => record.#passFor(unscopedRing, this.#scope));
    const address = this.#address(ring);
    const stored = await read(reserved, address);
    if (stored !== undefined) return await this.#follow(reserved, ring, stored, address);
    if (ring.primary === "") return;
    if (await this.#isOfAnother(reserved, ring, forScope)) throw notFounded(this.#inner.description, ring);
    // Only one of several new processes may found the store; the others must open what it wrote.
    if (await wrapRejection(() => reserved.replace(address.key, undefined, this.#sealed(ring, address)))) return;
    await this.#verify(reserved, ring, forScope);
  }

  /**
   * Whether a store without a check record holds records all the same, and the unscoped ring opens none of those that are
   * looked at: then the record was deleted, and this ring is not the one that wrote it.
   */
  async #isOfAnother(reserved: ScannableStore, ring: Keyring, forScope: string | undefined): Promise<boolean> {
    // The holder of a scope's ring cannot open what others wrote, and is not meant to.
    if (this.#unscoped !== undefined || ring.scopeName !== undefined) return false;
    const records = this.#inner.scannable;
    try {
      let seen = 0;
      for (const store of records === undefined ? [reserved] : [reserved, records]) {
        let page = 0;
        for await (const entries of pages(store, maxWitnesses)) {
          for (const entry of entries) {
            const address = store === reserved ? { ...entry, namespace: reservedNamespace } : entry;
            const scopes = [undefined, forScope, store === reserved ? scopeIn(entry.key) : undefined];
            const isOwn = opensInAny(ring, scopes, entry.value, address);
            if (isOwn === true) return false;
            if (isOwn === false) seen++;
          }
          page++;
          if (seen >= maxWitnesses || page >= maxWitnessPages) break;
        }
      }
      return seen > 0;
    } catch (error) {
      // Who may not list what is there, or cannot now, founds as before.
      if (error instanceof KeywardError) return false;
      throw error;
    }
  }

  /** Opens the record, and seals it under the ring's primary, unless a later generation of the ring wrote it. */
  async #follow(reserved: AtomicStore, ring: Keyring, stored: StoredValue, address: RecordAddress): Promise<void> {
    const opened = await this.#open(stored, address);
    if (opened.current) return;
    const said = await this.#borneOut(reserved, opened, ring);
    if (said !== undefined && said.sealedBy > ring.generation) return;
    await wrapRejection(() => reserved.replace(address.key, stored, this.#sealed(ring, address)));
  }

  async #open(stored: StoredValue, address: RecordAddress): Promise<OpenedRecord> {
    try {
      if (readHeader(stored, address) !== undefined) return await this.#codec.open(stored, address);
    } catch (cause) {
      throw refused(cause, this.#inner.description, await this.#codec.ring());
    }
    throw refused(undefined, this.#inner.description, await this.#codec.ring());
  }

  #opens(ring: Keyring, stored: StoredValue, address: RecordAddress): boolean {
    try {
      return this.#codec.openIgnoringStatus(ring, stored, address) !== undefined;
    } catch (error) {
      if (error instanceof KeywardError) return false;
      throw error;
    }
  }

  #address(ring: Keyring): RecordAddress {
    // A ring may have been scoped before it was handed over.
    const scope = this.#scope ?? ring.scopeName;
    return { namespace: reservedNamespace, key: scope === undefined ? "check" : `${scopedPrefix}${scope}` };
  }

  #sealed(ring: Keyring, address: RecordAddress, generation = ring.generation): StoredValue {
    const sealedBy = ring.generation === generation ? {} : { sealedBy: ring.generation };
    return this.#codec.seal(ring, address, { value: JSON.stringify({ keyward: "check", generation, ...sealedBy }) });
  }
}

/** The scopes whose record lies under a key of this ring. For others the provider would be asked, and garbage is cheap. */
async function scopesIn(reserved: ScannableStore, ring: Keyring): Promise<Set<string>> {
  const scopes = new Set<string>();
  for await (const entries of pages(reserved, pageSize)) {
    for (const { key, value } of entries) {
      if (!key.startsWith(scopedPrefix)) continue;
      const keyId = keyIdIn(value, { namespace: reservedNamespace, key });
      if (keyId !== undefined && keyOf(ring, keyId) !== undefined) scopes.add(key.slice(scopedPrefix.length));
    }
  }
  return scopes;
}

async function read(reserved: AtomicStore, { key }: RecordAddress): Promise<StoredValue | undefined> {
  const stored: unknown = await wrapRejection(() => reserved.get(key));
  return isStoredValue(stored) ? stored : undefined;
}

/** Whether no process with this ring can write in that scope, which may be no name of one. */
function isNobodys(error: unknown): boolean {
  return error instanceof KeywardError && (error.code === "OVERWRITE_REFUSED" || error.code === "KEYRING_INVALID");
}

/** What a check record says. */
interface Said {
  /** The generation that is there to be loaded. */
  readonly generation: number;
  /** That of the ring which sealed the record. */
  readonly sealedBy: number;
}

/** `undefined` for what Keyward does not write: the next one who may write the record replaces it. */
function saidBy({ content }: OpenedRecord): Said | undefined {
  const said = ReservedText.read("check record", String(content.value), (text) => {
    const generation = text.amount("generation", { least: 0 });
    return { generation, sealedBy: text.amountIfAny("sealedBy", { least: 0 }) ?? generation };
  });
  return said instanceof KeywardError ? undefined : said;
}

const wrongRing =
  "Give this process the keyring that the store was written with. To try something out with a new key, use an empty " +
  "store. Where that keyring is lost, what it encrypted cannot be read again: only then, " +
  "overwriteCheckRecord() of the EncryptedStore (keyv.encryptedStore) lets this process write over it.";

/** Whether an envelope opens under the ring in one of these scopes; `undefined` for what is no whole envelope. */
function opensInAny(
  ring: Keyring,
  scopes: readonly (string | undefined)[],
  stored: StoredValue,
  address: RecordAddress,
): boolean | undefined {
  let isEnvelope = false;
  for (const scope of new Set(scopes)) {
    try {
      const scoped = scope === undefined ? ring : ring.scope(scope);
      const header = readHeader(stored, address);
      if (header === undefined) return undefined;
      // Under another key than its own, an envelope says no more than that it is whole.
      const key = keyOf(scoped, header.keyId) ?? keyOf(scoped, scoped.primary);
      if (key === undefined) return undefined;
      open(stored, header, key.root, address);
      return true;
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      isEnvelope ||= error.code === "KEY_MISMATCH" || error.code === "RECORD_TAMPERED";
    }
  }
  return isEnvelope ? false : undefined;
}

/** The scope that a record of the reserved space is sealed for, by its key. */
function scopeIn(key: string): string | undefined {
  if (key.startsWith(scopedPrefix)) return key.slice(scopedPrefix.length);
  return key.startsWith(heartbeatPrefix) ? readHeartbeatKey(key).scope : undefined;
}

function notFounded(store: string, ring: Keyring): KeywardError {
  const problem = `${store} holds records, but no check record, and none of those that were tried can be decrypted`;
  return new KeywardError("OVERWRITE_REFUSED", `Nothing was written: ${problem}; this process has ${keysIn(ring)}`, {
    hint: wrongRing,
  });
}

function refused(cause: unknown, store: string, ring: Keyring): KeywardError {
  const { code, keyId } = cause instanceof KeywardError ? cause : {};
  const problem = problemWith(store, code, keyId, keysIn(ring));
  return new KeywardError("OVERWRITE_REFUSED", `Nothing was written: ${problem}`, {
    keyId,
    cause,
    hint: wrongRing,
  });
}

function problemWith(
  store: string,
  code: KeywardErrorCode | undefined,
  keyId: string | undefined,
  atHand: string,
): string {
  switch (code) {
    case "KEY_UNKNOWN":
      return `${store} was written with key "${keyId}", and this process has ${atHand}`;
    case "KEY_DISABLED":
      return `${store} was written with key "${keyId}", which is disabled in this process`;
    case "KEY_MISMATCH":
      return `${store} was written with another key "${keyId}" than the one of this id that this process has`;
    default:
      return `the check record of ${store} was altered, or is of a later release; this process has ${atHand}`;
  }
}
