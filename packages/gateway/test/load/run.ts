// Measures a real gateway under load. Not part of the test suite.
//
//   node packages/gateway/test/load/run.ts streams 1000
//   node packages/gateway/test/load/run.ts calls 100000
//   node packages/gateway/test/load/run.ts changes 1000
//
// `streams` opens that many streams of events through the gateway. It prints the memory of the gateway for each stream, and
// for 20 s the delay of 1,000 events a second, beside the delay in streams that do not go through the gateway. Meanwhile
// the gateway answers 100 calls a second and records each of them in the audit.
//
// `calls` sends that many calls, 64 at once. After each tenth of them, it prints the memory of the gateway after a full
// garbage collection.
//
// `changes` sends that many calls a second for 30 s. Meanwhile another process sets a new value every 100 ms and rotates the
// keyring again and again. Prints how many calls failed, and how many calls the server got with another value than the one
// that was set before they began, or one that was set since.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Dispatcher, Pool } from "undici";
import { z } from "zod";

const atOnce = 64;
const measuredMs = 20_000;
const callsPerSecond = 100;
const changedMs = 30_000;
const directStreams = 100;
const served = z.object({ url: z.string() });
const started = z.object({ url: z.string(), tokens: z.array(z.string()), folder: z.string() });
const set = z.object({ value: z.number() });
const changed = z.object({ value: z.number().optional() });
const ended = z.object({ values: z.number(), rotations: z.number() });
const memory = z.object({ heapUsed: z.number(), external: z.number(), rss: z.number() });
const sentNs = /"sentNs":"(\d+)"/g;

const defaultCounts: Readonly<Record<string, string>> = { streams: "1000", calls: "100000", changes: "1000" };

const [mode = "streams", count = defaultCounts[mode] ?? "1"] = process.argv.slice(2);
const server = forked("server.ts", [], []);
const direct = served.parse(await message(server));
const gateway = forked("gateway.ts", ["1", `events=${direct.url}`], ["--expose-gc"]);
const {
  url: gatewayUrl,
  tokens: [token],
  folder,
} = started.parse(await message(gateway));
const url = `${gatewayUrl}/s/events/mcp`;
const pool = new Pool(new URL(url).origin, { pipelining: 1, bodyTimeout: 0, headersTimeout: 60_000 });
try {
  console.log(`load average ${loadavg()[0]?.toFixed(1)}`);
  await calls(2_000);
  if (mode === "streams") await measureStreams(Number(count));
  else if (mode === "changes") await measureChanges(Number(count));
  else await measureCalls(Number(count));
  console.log(`load average ${loadavg()[0]?.toFixed(1)}`);
} finally {
  await pool.destroy();
  for (const child of [gateway, server]) {
    child.disconnect();
    await once(child, "exit");
  }
}

async function measureStreams(wanted: number): Promise<void> {
  const delaysMs: number[] = [];
  const directMs: number[] = [];
  const counting = { isOn: false };
  const before = await used();
  const directPool = new Pool(new URL(direct.url).origin, { bodyTimeout: 0 });
  for (let opened = 0; opened < wanted; opened += atOnce) {
    const some = Math.min(atOnce, wanted - opened);
    await Promise.all(Array.from({ length: some }, () => opening(pool, url, delaysMs, counting)));
  }
  // Each stream has relayed some events.
  await sleep(3_000);
  const after = await used();
  const [heapKib, rssKib] = [
    after.heapUsed + after.external - before.heapUsed - before.external,
    after.rss - before.rss,
  ].map((bytes) => (bytes / 1_024 / wanted).toFixed(1));
  console.log(`${wanted} streams: heap and buffers ${heapKib} KiB a stream, RSS ${rssKib} KiB a stream`);
  await Promise.all(Array.from({ length: directStreams }, () => opening(directPool, direct.url, directMs, counting)));
  counting.isOn = true;
  const untilMs = performance.now() + measuredMs;
  const inProgress: Promise<void>[] = [];
  while (performance.now() < untilMs) {
    inProgress.push(call().then(() => {}));
    await sleep(1_000 / callsPerSecond);
  }
  await Promise.all(inProgress);
  counting.isOn = false;
  console.log(`${inProgress.length} calls meanwhile`);
  console.log(`delay through the gateway: ${delayText(delaysMs)}`);
  console.log(`delay without the gateway: ${delayText(directMs)}`);
  await directPool.destroy();
}

async function measureCalls(wanted: number): Promise<void> {
  for (let tenth = 0; tenth <= 10; tenth++) {
    if (tenth > 0) await calls(wanted / 10);
    const { heapUsed, external, rss } = await used();
    const [heap, buffers, resident] = [heapUsed, external, rss].map((bytes) => (bytes / 2 ** 20).toFixed(1));
    const sent = String((wanted * tenth) / 10).padStart(8);
    console.log(`${sent} calls  heap ${heap} MiB  external ${buffers} MiB  RSS ${resident} MiB`);
  }
}

async function measureChanges(perSecond: number): Promise<void> {
  const changing = forked("changes.ts", [folder], []);
  // The first value is set before the first call.
  let value = set.parse(await message(changing)).value;
  changing.on("message", (sent) => {
    value = Math.max(value, changed.parse(sent).value ?? value);
  });
  const figures = { sent: 0, failed: 0, wrong: 0 };
  const failures = new Map<string, number>();
  const inProgress = new Set<Promise<void>>();
  const beginMs = performance.now();
  const one = async () => {
    const least = value;
    try {
      // The server answers with the number of the value that it got.
      const answered = Number((await call()).headers["etag"]);
      // The message about a value that was just set may arrive after the answer of a call with this value.
      if (answered < least || Number.isNaN(answered)) figures.wrong++;
    } catch (error) {
      figures.failed++;
      const why = error instanceof Error ? error.message : "unknown";
      failures.set(why, (failures.get(why) ?? 0) + 1);
    }
  };
  for (let elapsedMs = 0; elapsedMs < changedMs; elapsedMs = performance.now() - beginMs) {
    const owed = Math.floor((elapsedMs * perSecond) / 1_000) - figures.sent;
    for (let index = 0; index < owed; index++) {
      figures.sent++;
      const running = one().finally(() => inProgress.delete(running));
      inProgress.add(running);
    }
    await sleep(5);
  }
  await Promise.all(inProgress);
  const seconds = (performance.now() - beginMs) / 1_000;
  changing.send("end");
  const { values, rotations } = ended.parse(await ending(changing));
  console.log(
    `${(figures.sent / seconds).toFixed(0)} calls a second for ${seconds.toFixed(0)} s: ${JSON.stringify(figures)}`,
  );
  for (const [why, times] of failures) console.log(`${times} times: ${why}`);
  console.log(`${values} values were set and ${rotations} rotations were made meanwhile`);
}

/** Resolves to the last message of a process, which disconnects then. */
async function ending(child: ChildProcess): Promise<unknown> {
  let last: unknown;
  child.on("message", (sent) => {
    last = sent;
  });
  await once(child, "exit");
  return last;
}

async function calls(wanted: number): Promise<void> {
  let begun = 0;
  const caller = async () => {
    while (begun++ < wanted) await call();
  };
  await Promise.all(Array.from({ length: atOnce }, caller));
}

async function call(): Promise<Dispatcher.ResponseData> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 7, method: "tools/call", params: { name: "search_issues" } });
  const answered = await pool.request({
    ...{ path: new URL(url).pathname, method: "POST", body },
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
  });
  await answered.body.dump();
  if (answered.statusCode !== 200) throw new Error(`A call was answered with ${answered.statusCode}`);
  return answered;
}

/** Opens a stream. Resolves when its first bytes have come. Adds the delay of each event to `delaysMs` while it counts. */
function opening(from: Pool, target: string, delaysMs: number[], counting: { readonly isOn: boolean }): Promise<void> {
  return new Promise((resolve, reject) => {
    const handler: Dispatcher.DispatchHandler = {
      onRequestStart() {},
      onResponseStart(_controller, status) {
        if (status !== 200) reject(new Error(`A stream was answered with ${status}`));
      },
      onResponseData(_controller, chunk) {
        resolve();
        if (!counting.isOn) return;
        const nowNs = process.hrtime.bigint();
        for (const [, sent = "0"] of chunk.toString().matchAll(sentNs)) {
          delaysMs.push(Number(nowNs - BigInt(sent)) / 1e6);
        }
      },
      onResponseEnd() {},
      onResponseError(_controller, error) {
        reject(error);
      },
    };
    from.dispatch(
      {
        ...{ path: new URL(target).pathname, method: "GET" },
        headers: { accept: "text/event-stream", authorization: `Bearer ${token}` },
      },
      handler,
    );
  });
}

async function used(): Promise<z.infer<typeof memory>> {
  gateway.send("memory");
  return memory.parse(await message(gateway));
}

function delayText(delaysMs: readonly number[]): string {
  const sorted = delaysMs.toSorted((one, other) => one - other);
  const at = (share: number) => sorted[Math.floor(share * sorted.length)]?.toFixed(1);
  return `${sorted.length} events, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`;
}

function forked(file: string, parameters: readonly string[], execArgv: readonly string[]): ChildProcess {
  return fork(fileURLToPath(new URL(file, import.meta.url)), [...parameters], { execArgv: [...execArgv] });
}

async function message(child: ChildProcess): Promise<unknown> {
  const [first] = await once(child, "message");
  return first;
}
