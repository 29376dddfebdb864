import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Needles } from "../../src/redaction/needles.ts";
import { answerOf, guesses, passedOn } from "./guesses.ts";

describe("an answer that is full of a guess of a part of a value", () => {
  it("is passed on in pieces of the same sizes, whether or not the guess is right", () => {
    fc.assert(
      fc.property(
        guesses,
        fc.integer({ min: 500, max: 40_000 }),
        fc.constantFrom("lines" as const, "bytes" as const),
        ({ value, right, wrong, filler }, chunkSize, framing) => {
          const needles = new Needles([{ value, basic: false }]);
          const [one, other] = [right, wrong].map((guess) =>
            passedOn(needles, answerOf(filler, guess, 60_000), chunkSize, framing),
          );
          expect(one).toEqual(other);
          expect(one?.hits).toBe(0);
        },
      ),
      { numRuns: 200 },
    );
  });
});
