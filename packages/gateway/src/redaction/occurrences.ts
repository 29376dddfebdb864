import { timingSafeEqual } from "node:crypto";
import type { Form } from "./forms.ts";

/** Of two occurrences that are nearer than this, only the bytes that the former one does not have are compared. */
const nearBytes = 64;

/** At which small distances two occurrences of one form can overlap. Each distance is computed when it is needed first. */
export class Periods {
  readonly #known = new WeakMap<Form, Map<number, boolean>>();

  /** Whether a form equals itself `distance` bytes further on. */
  has(form: Form, distance: number): boolean {
    let known = this.#known.get(form);
    if (known === undefined) {
      known = new Map();
      this.#known.set(form, known);
    }
    let isPeriod = known.get(distance);
    if (isPeriod === undefined) {
      const { bytes } = form;
      isPeriod = timingSafeEqual(bytes.subarray(distance), bytes.subarray(0, bytes.length - distance));
      known.set(distance, isPeriod);
    }
    return isPeriod;
  }
}

/**
 * The last occurrence of each form in one text. A value such as `aaaa…` may begin at each byte of an answer. To compare all of
 * its bytes at each of them would take the product of both lengths.
 */
export class Occurrences {
  readonly #bytes: Uint8Array;
  readonly #periods: Periods;
  #last: Map<Form, number> | undefined;

  constructor(bytes: Uint8Array, periods: Periods) {
    this.#bytes = bytes;
    this.#periods = periods;
  }

  /** Notes that all bytes of a form are at an index. */
  add(form: Form, start: number): void {
    this.#last ??= new Map();
    this.#last.set(form, start);
  }

  /**
   * Whether a form is at an index, if the last occurrence of the form is near; otherwise `undefined`. Compares only the bytes that
   * the two do not share, because the form itself says whether those that they share are right.
   */
  overlapsAt(form: Form, start: number): boolean | undefined {
    const last = this.#last?.get(form);
    if (last === undefined) return undefined;
    const distance = Math.abs(start - last);
    const { length } = form.bytes;
    if (distance >= Math.min(nearBytes, length)) return undefined;
    if (!this.#periods.has(form, distance)) return false;
    return start < last
      ? timingSafeEqual(this.#bytes.subarray(start, last), form.bytes.subarray(0, distance))
      : timingSafeEqual(this.#bytes.subarray(last + length, start + length), form.bytes.subarray(length - distance));
  }
}
