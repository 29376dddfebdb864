import { randomInt } from "node:crypto";

// Half of an id, because a random integer has at most 48 bits.
const halfLength = 6;
const radix = 36;
const halves = radix ** halfLength;

/** Returns a new random id of 12 lower-case letters and digits: about 62 bits. */
export function newId(): string {
  return randomHalf() + randomHalf();
}

function randomHalf(): string {
  return randomInt(halves).toString(radix).padStart(halfLength, "0");
}
