import { getHeapStatistics } from "node:v8";
import { type OptionNames, requireOptions } from "@keyward/core";
import { type KvHandlerOptions, KvServer, kvHandlerOptionNames } from "./kv-server.ts";
import { defaultLimits, leastBytesInMemory } from "./limits.ts";
import { listen } from "./node-server.ts";

/** Options of {@link startKvServer}: all options of `createKvHandler`, the port, and the time limits of connections. */
export interface KvServerOptions extends KvHandlerOptions {
  /** The address to listen on, with plain HTTP. For TLS, put a proxy in front of the server. Default: "127.0.0.1". */
  readonly host?: string;
  /** The port to listen on. 0 means any free port. Default: 8480. */
  readonly port?: number;
  /** How long the headers of a request may take to arrive, in milliseconds. Default: 5,000. */
  readonly headersTimeoutMs?: number;
  /** How long a connection may stay open without any transfer, in milliseconds. Default: 30,000. */
  readonly idleTimeoutMs?: number;
  /**
   * How long the requests in progress may take after `close()`, in milliseconds. After this time, all connections are
   * closed. Default: 10,000.
   */
  readonly drainMs?: number;
}

/** An HTTP KV server that is listening. */
export interface RunningKvServer {
  /** The URL at which the server is mounted, for the option `url` of `HttpStore`. */
  readonly url: string;
  /**
   * Refuses new connections, waits at most `drainMs` for the requests in progress, and resolves when all connections are
   * closed. The store stays open.
   */
  close(): Promise<void>;
}

const optionNames = {
  ...kvHandlerOptionNames,
  host: true,
  port: true,
  headersTimeoutMs: true,
  idleTimeoutMs: true,
  drainMs: true,
} satisfies OptionNames<KvServerOptions>;

/**
 * Starts an HTTP KV server on a port, as `keyward-kv serve` does. The server closes the connections of slow clients. Its
 * `close()` waits for the requests in progress. If `limits.maxBytesInMemory` is missing, the default is a quarter of the
 * heap of the process, but at least 64 MiB and at most 256 MiB.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` if the server cannot listen on the port; `STORE_INVALID` for a store that is
 * not a Keyv 6 storage adapter; `VALUE_INVALID` for an unknown option, and for an invalid duration, limit, entry or base
 * path.
 * @example
 * const server = await startKvServer({ store: new MemoryStore(), tenants: fileTenants("tenants.json"), port: 0 });
 * console.log(server.url);
 * await server.close();
 */
export async function startKvServer(options: KvServerOptions): Promise<RunningKvServer> {
  const {
    host = "127.0.0.1",
    port = 8480,
    headersTimeoutMs = 5_000,
    idleTimeoutMs = 30_000,
    drainMs = 10_000,
    limits = {},
    basePath = "",
    ...handlerOptions
  } = requireOptions("startKvServer", options, optionNames);
  const kv = new KvServer({
    ...handlerOptions,
    basePath,
    limits: { maxBytesInMemory: defaultBytesInMemory(), ...limits },
  });
  const requestTimeoutMs = headersTimeoutMs + (limits.bodyTimeoutMs ?? defaultLimits.bodyTimeoutMs);
  const server = await listen(kv, { host, port, headersTimeoutMs, requestTimeoutMs, idleTimeoutMs, drainMs });
  return { url: `${server.url}${basePath.replace(/\/$/, "")}`, close: () => server.close() };
}

/**
 * Returns the default of `limits.maxBytesInMemory`: a quarter of the heap, at most 256 MiB, and at least the memory of
 * two requests of the largest size.
 */
function defaultBytesInMemory(): number {
  const quarter = Math.floor(getHeapStatistics().heap_size_limit / 4);
  return Math.max(leastBytesInMemory(defaultLimits), Math.min(defaultLimits.maxBytesInMemory, quarter));
}
