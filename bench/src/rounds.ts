import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** One way to do a task. Whatever it returns is awaited when it is a promise. */
export interface Contestant {
  readonly name: string;
  readonly operation: () => unknown;
}

/** How long to measure. */
export interface Effort {
  readonly rounds: number;
  /** Rounds before those that count, in which code is compiled. */
  readonly warmUpRounds: number;
  /** The time that each contestant gets in each round, or one operation if that takes longer. */
  readonly sliceMs: number;
}

/** What was measured of one contestant; the ratios are to the first contestant. */
export interface Figures {
  readonly name: string;
  readonly medianNs: number;
  /** The median of the ratios within each round: a machine that is slower for some rounds has no part in it. */
  readonly ratio: number;
  /** The first and third quartile of the same ratios: how much of the ratio is noise. */
  readonly ratioQuartiles: readonly [number, number];
  /** The median of the differences to the first contestant within each round. */
  readonly addedNs: number;
}

interface Entrant extends Contestant {
  /** How often to repeat the operation in the next slice, from the time it took in the last. */
  iterations: number;
  readonly samplesNs: number[];
}

// Nobody should pay for another's garbage. A full collection would also throw away the code of whoever waits for a turn.
setFlagsFromString("--expose-gc");
const collect: (options: { type: "minor" }) => void = runInNewContext("gc");

/**
 * Times the contestants in turns, a slice each in every round, so that whatever slows the machine for a while slows
 * them all. The order is drawn anew for each round, so that no contestant always comes after the same other one.
 */
export async function measure(contestants: readonly Contestant[], effort: Effort): Promise<Figures[]> {
  const { rounds, warmUpRounds, sliceMs } = effort;
  const entrants = contestants.map((contestant): Entrant => ({ ...contestant, iterations: 1, samplesNs: [] }));
  for (let round = -warmUpRounds; round < rounds; round++) {
    for (const entrant of shuffled(entrants)) {
      collect({ type: "minor" });
      const sampleNs = (await timeNs(entrant.operation, entrant.iterations)) / entrant.iterations;
      if (round >= 0) entrant.samplesNs.push(sampleNs);
      entrant.iterations = Math.ceil((sliceMs * 1e6) / sampleNs);
    }
  }
  const [baseline] = entrants;
  if (baseline === undefined) return [];
  return entrants.map(({ name, samplesNs }) => {
    const ratios = samplesNs.map((sampleNs, round) => sampleNs / (baseline.samplesNs[round] ?? Number.NaN));
    const addedNs = samplesNs.map((sampleNs, round) => sampleNs - (baseline.samplesNs[round] ?? Number.NaN));
    return {
      name,
      medianNs: quantile(samplesNs, 0.5),
      ratio: quantile(ratios, 0.5),
      ratioQuartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)],
      addedNs: quantile(addedNs, 0.5),
    };
  });
}

async function timeNs(operation: () => unknown, iterations: number): Promise<number> {
  const startNs = process.hrtime.bigint();
  for (let i = 0; i < iterations; i++) {
    const result = operation();
    if (result instanceof Promise) await result;
  }
  return Number(process.hrtime.bigint() - startNs);
}

function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map((item) => ({ item, address: Math.random() }))
    .sort((one, other) => one.address - other.address)
    .map(({ item }) => item);
}

/** The value below which this share of the samples lies, between two samples where none lies on it. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((one, other) => one - other);
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}
