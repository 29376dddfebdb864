import { randomInt } from "node:crypto";

const characters = "abcdefghijklmnopqrstuvwxyz0123456789";
const idLength = 12;

/** Returns a new random id of 12 lower-case letters and digits: about 62 bits. */
export function newId(): string {
  return Array.from({ length: idLength }, () => characters.charAt(randomInt(characters.length))).join("");
}
