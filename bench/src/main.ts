import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { findVaultServers } from "../../test/servers/openbao.ts";
import { type BulkFigures, bulkName, measureBulk } from "./bulk.ts";
import {
  type CallEffort,
  type CallFigures,
  callsName,
  loadText,
  type ManyServersFigures,
  manyServersName,
  measureCalls,
  measureManyServers,
} from "./calls.ts";
import { bytesAtRest, envelopeTasks } from "./envelope-tasks.ts";
import { httpTasks } from "./http-tasks.ts";
import { keyvTasks } from "./keyv-tasks.ts";
import { type LazyFigures, lazyName, measureLazyReads } from "./lazy-reads.ts";
import { findRedisServer } from "./redis-server.ts";
import {
  bulkTable,
  bytesTable,
  callsTable,
  lazyTable,
  type Measured,
  manyServersTable,
  scopesTable,
  startsTable,
  timesTable,
  workspaceCallsTable,
} from "./report.ts";
import { type Effort, measure } from "./rounds.ts";
import { fiveInEach, measureScopes, type ScopeFigures, scopesName, servers } from "./scopes.ts";
import { serviceTasks } from "./service-tasks.ts";
import { measureStarts, type StartFigures, startName } from "./start-times.ts";
import { swapTasks } from "./swap-tasks.ts";
import { measureWorkspaceCalls, type WorkspaceCallFigures, workspaceCallsName } from "./workspace-calls.ts";

const usage = `npm run bench -- [--only PATTERN] [--records COUNT] [--quick] [--json FILE]

  --only PATTERN   measure only the tasks whose name contains PATTERN, such as "encrypt text" or "Redis"
  --records COUNT  re-encrypt COUNT records in bulk, then a tenth, and so on down to 10,000; rotate COUNT records in
                   many scopes; compare COUNT servers of the secrets service with ten. Default: 10,000
  --quick          measure one size of each task in a few short rounds, which show that everything works and not how fast
  --json FILE      write the figures to FILE`;

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    records: { type: "string", default: "10000" },
    quick: { type: "boolean" },
    json: { type: "string" },
    help: { type: "boolean" },
  },
});
if (options.help === true) {
  console.log(usage);
  process.exit();
}

const mostRecords = Number(options.records);
if (!Number.isSafeInteger(mostRecords) || mostRecords < 1) throw new Error("--records is not an integer of at least 1");
const sizesBytes = [64, 256, 1024, 16 * 1024, 1024 * 1024];
const effort: Effort =
  options.quick === true ? { rounds: 3, warmUpRounds: 1, sliceMs: 0.2 } : { rounds: 51, warmUpRounds: 25, sliceMs: 5 };
const machine = `Node ${process.version}, ${process.platform} ${process.arch}, ${availableParallelism()} cores`;
console.log(`${machine}; ${effort.rounds} rounds of ${effort.sliceMs} ms each`);

const isWanted = (name: string) => name.includes(options.only ?? "");
const redis = findRedisServer();
if (redis === undefined)
  console.log("The tasks over Redis are skipped, because neither redis-server nor valkey-server is on the PATH");
const tasks = [
  ...envelopeTasks(sizesBytes),
  ...keyvTasks(sizesBytes, redis),
  ...swapTasks(redis),
  ...httpTasks(),
  ...serviceTasks(redis, options.quick === true ? 100 : mostRecords),
].filter(
  ({ name }, index, all) =>
    isWanted(name) && (options.quick !== true || all.findIndex((task) => task.name === name) === index),
);
const rotations = [
  startName,
  scopesName,
  callsName,
  manyServersName,
  workspaceCallsName,
  ...(redis === undefined ? [] : [bulkName, lazyName]),
].filter(isWanted);
if (tasks.length + rotations.length === 0) throw new Error(`No task has a name that contains "${options.only}"`);
const measured: Measured[] = [];
for (const [index, { name, sizeBytes, prepare }] of tasks.entries()) {
  const { variants, close } = await prepare();
  try {
    // A few operations on a megabyte start the garbage collector. A longer slice spreads its cost over all variants.
    const sliceMs = sizeBytes < 2 ** 20 ? effort.sliceMs : 4 * effort.sliceMs;
    measured.push({ name, sizeBytes, variants: await measure(variants, { ...effort, sliceMs }) });
  } finally {
    await close();
  }
  if (tasks[index + 1]?.name !== name) console.log(timesTable(measured.filter((task) => task.name === name)));
}

const bulk: BulkFigures[] = [];
if (redis !== undefined && isWanted(bulkName)) {
  const vaults = await findVaultServers();
  if (vaults.missing !== undefined) console.log(`The comparison with Transit is skipped: ${vaults.missing}`);
  for (const records of options.quick === true ? [500] : countsUpTo(mostRecords)) {
    bulk.push(await measureBulk(redis, vaults, records, options.quick === true || records > 100_000 ? 1 : 5));
  }
  console.log(bulkTable(bulk));
}

const lazy: LazyFigures[] = [];
if (redis !== undefined && isWanted(lazyName)) {
  const runs: readonly (readonly [chunks: number, pauseMs: number])[] =
    options.quick === true
      ? [[2, 0]]
      : [
          [20, 0],
          [6, 1],
        ];
  for (const [chunks, pauseMs] of runs) lazy.push(await measureLazyReads(redis, chunks, pauseMs));
  console.log(lazyTable(lazy));
}

const scopes: ScopeFigures[] = [];
if (isWanted(scopesName)) {
  const quick = options.quick === true;
  for (const layout of [fiveInEach, servers]) {
    const count = quick ? 100 : Math.ceil(mostRecords / layout.recordsPerScope);
    scopes.push(await measureScopes(layout, count, quick ? 1 : 5));
  }
  console.log(scopesTable(scopes));
}

const starts: StartFigures[] = [];
if (isWanted(startName)) {
  starts.push(...(await measureStarts(options.quick === true ? 2 : 25)));
  console.log(startsTable(starts));
}

const callEffort: CallEffort =
  options.quick === true ? { rounds: 1, warmUpMs: 20, sliceMs: 20 } : { rounds: 15, warmUpMs: 20_000, sliceMs: 300 };
const calls: CallFigures[] = [];
if (isWanted(callsName)) {
  calls.push(...(await measureCalls(redis, callEffort)));
  console.log(`${callsTable(calls)}\n\n${loadText()}`);
}

const callsOfMany: ManyServersFigures[] = [];
if (isWanted(manyServersName)) {
  callsOfMany.push(...(await measureManyServers(options.quick === true ? 100 : mostRecords, callEffort)));
  console.log(`${manyServersTable(callsOfMany)}\n\n${loadText()}`);
}

const workspaceCalls: WorkspaceCallFigures[] = [];
if (isWanted(workspaceCallsName)) {
  workspaceCalls.push(...(await measureWorkspaceCalls(callEffort)));
  console.log(`${workspaceCallsTable(workspaceCalls)}\n\n${loadText()}`);
}

const atRest = [];
for (const sizeBytes of sizesBytes) atRest.push(await bytesAtRest(sizeBytes));
console.log(bytesTable(atRest));

if (options.json !== undefined) {
  writeFileSync(
    options.json,
    `${JSON.stringify({ machine, effort, tasks: measured, bulk, lazy, scopes, starts, calls, callsOfMany, workspaceCalls, bytesAtRest: atRest }, null, 2)}\n`,
  );
}

/** Returns `most`, a tenth of `most`, and so on down to 10,000, in ascending order. */
function countsUpTo(most: number): number[] {
  const counts: number[] = [];
  for (let count = most; count >= 10_000 || counts.length === 0; count = Math.floor(count / 10)) counts.unshift(count);
  return counts;
}
