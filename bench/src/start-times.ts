import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { quantile } from "./rounds.ts";

/** How long a command line of `keyward` takes from its start to its end, compared to a Node.js that does nothing. */
export interface StartFigures {
  readonly commandLine: string;
  readonly medianMs: number;
  /** The median of the ratios in each round. */
  readonly ratio: number;
}

export const startName = "start of keyward";

const run = promisify(execFile);
const executable = fileURLToPath(new URL("../../packages/cli/dist/keyward.js", import.meta.url));
const nothing = "node -e 0";
const commandLines: Readonly<Record<string, readonly string[]>> = {
  [nothing]: ["-e", "0"],
  "keyward --help": [executable, "--help"],
  "keyward keygen": [executable, "keygen"],
};

/** Starts each command line once in each round, with the compiled files, as they are published. */
export async function measureStarts(rounds: number): Promise<readonly StartFigures[]> {
  const taken: Readonly<Record<string, number>>[] = [];
  for (let round = 0; round <= rounds; round++) {
    const inRound: Record<string, number> = {};
    for (const [name, flags] of Object.entries(commandLines)) {
      const startedAtMs = performance.now();
      await run(process.execPath, flags);
      inRound[name] = performance.now() - startedAtMs;
    }
    // The first round reads the files from the disk.
    if (round > 0) taken.push(inRound);
  }
  const median = (value: (round: (typeof taken)[number]) => number) => quantile(taken.map(value), 0.5);
  return Object.keys(commandLines).map((commandLine) => ({
    commandLine,
    medianMs: median((round) => round[commandLine] ?? Number.NaN),
    ratio: median((round) => (round[commandLine] ?? Number.NaN) / (round[nothing] ?? Number.NaN)),
  }));
}
