import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { bytesAtRest, envelopeTasks } from "./envelope-tasks.ts";
import { keyvTasks } from "./keyv-tasks.ts";
import { bytesTable, type Measured, timesTable } from "./report.ts";
import { type Effort, measure } from "./rounds.ts";

const usage = `npm run bench -- [--only PATTERN] [--quick] [--json FILE]

  --only PATTERN   measure the tasks whose name contains it, such as "seal text" or "SQLite"
  --quick          a few short rounds: shows that everything runs, not how fast
  --json FILE      write the figures`;

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean" },
    json: { type: "string" },
    help: { type: "boolean" },
  },
});
if (options.help === true) {
  console.log(usage);
  process.exit();
}

const sizesBytes = [64, 256, 1024, 16 * 1024, 1024 * 1024];
const effort: Effort =
  options.quick === true ? { rounds: 3, warmUpRounds: 1, sliceMs: 0.2 } : { rounds: 51, warmUpRounds: 25, sliceMs: 5 };
const machine = `Node ${process.version}, ${process.platform} ${process.arch}, ${availableParallelism()} cores`;
console.log(`${machine}; ${effort.rounds} rounds of ${effort.sliceMs} ms each`);

const tasks = [...envelopeTasks(sizesBytes), ...keyvTasks(sizesBytes)].filter(({ name }) =>
  name.includes(options.only ?? ""),
);
if (tasks.length === 0) throw new Error(`No task has "${options.only}" in its name`);
const measured: Measured[] = [];
for (const [index, { name, sizeBytes, prepare }] of tasks.entries()) {
  const { contestants, close } = await prepare();
  try {
    // A few operations on a megabyte bring the garbage collector in, and none should be alone in paying for it.
    const sliceMs = sizeBytes < 2 ** 20 ? effort.sliceMs : 4 * effort.sliceMs;
    measured.push({ name, sizeBytes, contestants: await measure(contestants, { ...effort, sliceMs }) });
  } finally {
    await close();
  }
  if (tasks[index + 1]?.name !== name) console.log(timesTable(measured.filter((task) => task.name === name)));
}

const atRest = [];
for (const sizeBytes of sizesBytes) atRest.push(await bytesAtRest(sizeBytes));
console.log(bytesTable(atRest));

if (options.json !== undefined) {
  writeFileSync(
    options.json,
    `${JSON.stringify({ machine, effort, tasks: measured, bytesAtRest: atRest }, null, 2)}\n`,
  );
}
