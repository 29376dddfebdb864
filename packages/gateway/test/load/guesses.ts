// Measures whether the time of a search tells a caller that a guess of a part of a value is right. Not part of the test suite.
//
//   node packages/gateway/test/load/guesses.ts 10000
//   node packages/gateway/test/load/guesses.ts 10000 SEED
//
// Each pair is two answers of 32 KiB that are full of a guess of 1 to 7 bytes of a value of 48 bytes, right and wrong. In half
// of the pairs, the guess goes on with the first 12 bytes of the value. Both are searched in turn. Prints the medians of the
// times, and whether what is passed on has the same sizes. Ends with 1 if the sizes of a pair differ.
import { randomInt } from "node:crypto";
import { loadavg } from "node:os";
import fc from "fast-check";
import { Needles } from "../../src/redaction/needles.ts";
import { answerOf, guesses, passedOn } from "../redaction/guesses.ts";

const answerBytes = 32 * 1_024;
const chunkBytes = 16 * 1_024;
const warmUpPairs = 300;
const turns = 4;

const [count = "10000", seed = String(randomInt(2 ** 31))] = process.argv.slice(2);
const pairs = fc.sample(guesses, { numRuns: Number(count) + warmUpPairs, seed: Number(seed) });
const times: { readonly isHeadKnown: boolean; readonly rightUs: number; readonly wrongUs: number }[] = [];
let differing = 0;
for (const [index, { value, isHeadKnown, right, wrong, filler }] of pairs.entries()) {
  const needles = new Needles([{ value, basic: false }]);
  const answers = [right, wrong].map((guess) => answerOf(filler, guess, answerBytes));
  const best = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  const results = ["", ""];
  for (let turn = 0; turn < turns; turn++) {
    // Neither of the two is always the first.
    for (const which of (turn + index) % 2 === 0 ? [0, 1] : [1, 0]) {
      const startMs = performance.now();
      const result = passedOn(needles, answers[which] ?? Buffer.alloc(0), chunkBytes, "bytes");
      best[which] = Math.min(best[which] ?? 0, 1_000 * (performance.now() - startMs));
      results[which] = JSON.stringify(result);
    }
  }
  if (results[0] !== results[1]) differing++;
  if (index >= warmUpPairs) times.push({ isHeadKnown, rightUs: best[0] ?? 0, wrongUs: best[1] ?? 0 });
}

console.log(`${times.length} pairs, seed ${seed}, load average ${loadavg()[0]?.toFixed(1)}`);
console.log(`${differing} pairs with different sizes or hits`);
print("1 to 7 bytes", (isHeadKnown) => !isHeadKnown);
print("the first 12 bytes and 1 to 7 more", (isHeadKnown) => isHeadKnown);
print("all", () => true);
process.exitCode = differing === 0 ? 0 : 1;

function print(title: string, isMeant: (isHeadKnown: boolean) => boolean): void {
  const meant = times.filter(({ isHeadKnown }) => isMeant(isHeadKnown));
  const [right, wrong] = [median(meant.map(({ rightUs }) => rightUs)), median(meant.map(({ wrongUs }) => wrongUs))];
  const ofPairs = median(meant.map(({ rightUs, wrongUs }) => rightUs / wrongUs));
  console.log(
    `${title}: right ${right.toFixed(1)} µs, wrong ${wrong.toFixed(1)} µs, ratio ${(right / wrong).toFixed(3)}, of pairs ${ofPairs.toFixed(3)}`,
  );
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[values.length >> 1] ?? Number.NaN;
}
