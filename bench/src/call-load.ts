// Sends calls to one contender at a time, in a process of its own. Each message is a `Slice`, each answer a `SliceFigures`.
import { Pool } from "undici";
import { quantile } from "./rounds.ts";

/** The calls that are sent in one slice of a round. */
export interface Slice {
  readonly origin: string;
  /** The paths to which the calls are sent in turn. */
  readonly paths: readonly string[];
  readonly token: string;
  /** The length of the body of an answer; `undefined` if it varies. */
  readonly answerBytes: number | undefined;
  readonly atOnce: number;
  readonly ms: number;
  /** The request. Default: a call of a tool, without a session. */
  readonly request?: CallRequest | undefined;
}

/** The body of a request, and its headers besides those that every request has. */
export interface CallRequest {
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** Measurements of the calls of one slice. */
export interface SliceFigures {
  readonly calls: number;
  readonly elapsedMs: number;
  readonly p50Ms: number;
}

const toolCall: CallRequest = {
  body: JSON.stringify({
    jsonrpc: "2.0",
    id: 7,
    method: "tools/call",
    params: { name: "search_issues", arguments: { query: "is:open label:bug", repository: "example/shop", limit: 20 } },
  }),
  headers: { "mcp-protocol-version": "2025-11-25" },
};
const pools = new Map<string, Pool>();

process.on("disconnect", () => process.exit());
process.on("message", async (slice: Slice) => process.send?.(await run(slice)));
process.send?.({});

async function run(slice: Slice): Promise<SliceFigures> {
  const { origin, atOnce, ms, paths } = slice;
  const pool = pools.get(origin) ?? new Pool(origin, { connections: atOnce, keepAliveTimeout: 60_000 });
  pools.set(origin, pool);
  const latencies: number[] = [];
  let begun = 0;
  const startMs = performance.now();
  const caller = async () => {
    do {
      const beginMs = performance.now();
      await call(pool, paths[begun++ % paths.length] ?? "", slice);
      latencies.push(performance.now() - beginMs);
    } while (performance.now() - startMs < ms);
  };
  await Promise.all(Array.from({ length: atOnce }, caller));
  return { calls: latencies.length, elapsedMs: performance.now() - startMs, p50Ms: quantile(latencies, 0.5) };
}

function call(pool: Pool, path: string, { token, answerBytes, request = toolCall }: Slice): Promise<void> {
  const headers = {
    accept: "application/json, text/event-stream",
    authorization: `Bearer ${token}`,
    "content-type": "application/json",
    "user-agent": "keyward-bench",
    ...request.headers,
  };
  return new Promise((resolve, reject) => {
    let status = 0;
    let bytes = 0;
    pool.dispatch(
      { path, method: "POST", headers, body: request.body },
      {
        onRequestStart() {},
        onResponseStart(_controller, code) {
          status = code;
        },
        onResponseData(_controller, chunk) {
          bytes += chunk.length;
        },
        onResponseEnd() {
          if (status === 200 && (answerBytes === undefined || bytes === answerBytes)) resolve();
          else reject(new Error(`${path} was answered with ${status} and ${bytes} bytes instead of ${answerBytes}`));
        },
        onResponseError(_controller, error) {
          reject(error);
        },
      },
    );
  });
}
