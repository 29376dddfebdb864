import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** One way to do a task. If its operation returns a promise, the promise is awaited. */
export interface Variant {
  readonly name: string;
  readonly operation: () => unknown;
}

/** The length of a measurement. */
export interface Effort {
  readonly rounds: number;
  /** Number of rounds before those that count. They let the engine compile the code. */
  readonly warmUpRounds: number;
  /** Time for each variant in each round, in milliseconds. A longer operation runs once. */
  readonly sliceMs: number;
}

/** Measurements of one variant. Ratios compare it with the first variant. */
export interface Figures {
  readonly name: string;
  readonly medianNs: number;
  /** Median of the ratios within each round, which ignores rounds in which the machine was slower. */
  readonly ratio: number;
  /** First and third quartile of the same ratios, which show how much of the ratio is noise. */
  readonly ratioQuartiles: readonly [number, number];
  /** Median of the differences to the first variant within each round. */
  readonly addedNs: number;
}

interface Entrant extends Variant {
  /** Number of operations in the next slice, computed from the duration of the last slice. */
  iterations: number;
  readonly samplesNs: number[];
}

// No variant should pay for the garbage of another. A full collection would also discard the code of those that wait.
setFlagsFromString("--expose-gc");
const collect: (options: { type: "minor" }) => void = runInNewContext("gc");

/**
 * Times the variants in turns, one slice each in every round, so that anything that slows the machine for a while slows
 * all of them. The order is random in each round, so that no variant always runs after the same other one.
 */
export async function measure(variants: readonly Variant[], effort: Effort): Promise<Figures[]> {
  const { rounds, warmUpRounds, sliceMs } = effort;
  const entrants = variants.map((variant): Entrant => ({ ...variant, iterations: 1, samplesNs: [] }));
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

/** Returns the items in random order. */
export function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map((item) => ({ item, address: Math.random() }))
    .sort((one, other) => one.address - other.address)
    .map(({ item }) => item);
}

/** Returns the value below which this share of the samples is, interpolated between two samples if necessary. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((one, other) => one - other);
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}
