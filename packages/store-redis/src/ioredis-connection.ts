import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import {
  ignoreLaterErrors,
  KeywardError,
  type Repetition,
  Repetitions,
  requireUrl,
  shareListener,
} from "@keyward/core";
import { Cluster, type ClusterNode, type ClusterOptions, Command, Redis, type RedisOptions } from "ioredis";
import { Connection, executedOf, type Request, type ScannedServer, unavailable } from "./connection.ts";
import type { Deadline } from "./deadline.ts";
import { isWithoutDatabase, problemOf } from "./problems.ts";
import { bareError, NotSent, serverCodeOf } from "./server-error.ts";

/** A Redis Cluster to connect to. */
export interface ClusterSource {
  /** Some nodes of the Cluster, through which the client finds all other nodes. */
  readonly nodes: readonly ClusterNode[];
  /**
   * Options for the class `Cluster` of ioredis. Pass the password and the options for TLS as `redisOptions`. Default:
   * none.
   */
  readonly options?: ClusterOptions;
}

/**
 * The Redis server, Sentinel group or Cluster that a store connects to: a URL, options of ioredis, the nodes of a
 * Cluster, or an existing client of ioredis. The store does not close an existing client.
 */
export type RedisSource = string | URL | RedisOptions | ClusterSource | Redis | Cluster;

const pollMs = 10;
const mostRetryMs = 1_000;
const refreshMs = 100;

/** A connection over ioredis, or over its fork iovalkey. */
export class IoredisConnection extends Connection {
  readonly #client: Redis | Cluster;
  /** Whether this connection created the client. Only then does it close the client. */
  readonly #ownsClient: boolean;
  /** Functions that remove this connection's listeners from the client. */
  readonly #unlisten: readonly (() => void)[];
  #refreshAtMs = 0;
  #wrongDatabase: Error | undefined;

  /**
   * Creates a connection over a new client or an existing one.
   *
   * @param failed called with an error of the connection and the number of times that this error has occurred. If the
   * error recurs, `failed` is called only at growing intervals.
   */
  constructor(source: RedisSource, timeoutMs: number, failed: (error: Error, repetition: Repetition) => void) {
    super(timeoutMs);
    this.#ownsClient = !isClient(source);
    this.#client = isClient(source) ? source : connect(source, timeoutMs);
    if (keyPrefixOf(this.#client) !== "") {
      throw new KeywardError(
        "VALUE_INVALID",
        'The option "keyPrefix" of ioredis cannot be used, because SCAN ignores the prefix',
        {
          hint: "Remove the option `keyPrefix` of ioredis, and pass the option `prefix` to the store instead.",
        },
      );
    }
    const repetitions = new Repetitions();
    const report = (error: unknown) => {
      this.noteFailure(error);
      // ioredis continues with database 0, where other applications may have their records.
      if (isWithoutDatabase(error)) this.#wrongDatabase = bareError(error);
      const bare = bareError(error);
      const repetition = repetitions.occurred(bare);
      if (repetition !== undefined) failed(bare, repetition);
    };
    const client = this.#client;
    this.#unlisten = [
      shareListener(client, "error", report),
      shareListener(client, "node error", report),
      // Earlier errors no longer explain a failure after the client has connected.
      shareListener(client, "ready", () => {
        this.noteSuccess();
        repetitions.succeeded();
      }),
      // The client makes the socket of an attempt to connect after it has emitted this event.
      shareListener(client, "connecting", () => setImmediate(() => this.#ignoreSecondErrors())),
    ];
    this.#ignoreSecondErrors();
  }

  /**
   * Ignores the second error of a socket. ioredis listens for one error of each socket, but an interrupted TLS handshake
   * emits two errors. An error without a listener would end the process.
   */
  #ignoreSecondErrors(): void {
    for (const node of isCluster(this.#client) ? this.#client.nodes() : [this.#client]) {
      const socket: unknown = Reflect.get(node, "stream");
      if (socket instanceof EventEmitter) ignoreLaterErrors(socket);
    }
  }

  override get isCluster(): boolean {
    return this.#client.isCluster;
  }

  override async servers(deadline: Deadline): Promise<readonly ScannedServer[]> {
    await this.#ready(deadline);
    const client = this.#client;
    const primaries = isCluster(client) ? client.nodes("master") : [client];
    return primaries.map((primary) => new IoredisServer(primary));
  }

  protected override async attempt(request: Request, deadline: Deadline): Promise<unknown> {
    if (this.#client.status !== "ready" || this.#wrongDatabase !== undefined) await this.#ready(deadline);
    if (deadline.passed) throw new NotSent("The command was not sent", { cause: deadline.lastError });
    const command = new TrackedCommand(request, deadline);
    try {
      command.handTo(this.#client);
      const reply: unknown = await command.promise;
      if (!command.keptBack) return reply;
    } catch (error) {
      const answered = command.sent || serverCodeOf(error) !== undefined;
      throw answered ? error : new NotSent("The command was not sent", { cause: error });
    }
    const error = new Error("Connection is closed.");
    throw command.sent ? error : new NotSent("The command was not sent", { cause: error });
  }

  protected override refresh(): void {
    const client = this.#client;
    if (!isCluster(client) || client.status !== "ready" || performance.now() < this.#refreshAtMs) return;
    this.#refreshAtMs = performance.now() + refreshMs;
    client.refreshSlotsCache();
  }

  protected override leave(): void {
    const client = this.#client;
    if (isCluster(client) || client.status !== "ready" || typeof client.options.retryStrategy !== "function") return;
    client.disconnect(true);
  }

  protected override async end(): Promise<void> {
    for (const unlisten of this.#unlisten) unlisten();
    if (!this.#ownsClient) return;
    // ioredis prints errors that have no listener. Errors while the client closes do not matter.
    ignoreLaterErrors(this.#client);
    this.#ignoreSecondErrors();
    this.#client.disconnect();
  }

  async #ready(deadline: Deadline): Promise<void> {
    const client = this.#client;
    while (client.status !== "ready") {
      if (client.status === "wait") client.connect().catch(() => undefined);
      if (deadline.passed) throw this.tooLate(deadline);
      if (client.status === "end") {
        const { message, hint } = problemOf(this.failure) ?? {
          message: "The client of Redis is not connected, and does not reconnect by itself",
          hint: "If the server is down, start it. Otherwise correct its address. Then create a new client and a new store.",
        };
        throw unavailable(message, hint, this.failure);
      }
      deadline.lastError = this.failure ?? deadline.lastError;
      await sleep(pollMs);
    }
    const problem = problemOf(this.#wrongDatabase);
    if (problem !== undefined) throw unavailable(problem.message, problem.hint, this.#wrongDatabase);
  }
}

class IoredisServer implements ScannedServer {
  readonly address: string;
  readonly #primary: Redis;

  constructor(primary: Redis) {
    const { host, port } = primary.options;
    this.address = `${host}:${port}`;
    this.#primary = primary;
  }

  async transaction(commands: readonly (readonly string[])[], deadline: Deadline): Promise<readonly unknown[]> {
    if (deadline.passed) throw new NotSent("The transaction was not sent", { cause: deadline.lastError });
    const sent = [["MULTI"], ...commands, ["EXEC"]].map(([name = "", ...given]) => {
      const command = new TransactionCommand(name, given);
      void this.#primary.sendCommand(command);
      return command.promise;
    });
    return executedOf(await Promise.all(sent));
  }
}

const concealed = { join: () => "…", [inspect.custom]: () => "…" };

/** Hides arguments of a command from the log that ioredis prints if DEBUG=ioredis:* is set. */
function conceal<Arguments extends object>(given: Arguments): Arguments {
  return Object.assign(given, concealed);
}

/**
 * Hides the arguments of logins on every connection, including those that ioredis opens for a Cluster or to sentinels.
 */
function concealLogins(): void {
  for (const name of ["auth", "hello"]) Command.setArgumentTransformer(name, conceal);
}

const ping = "*1\r\n$4\r\nPING\r\n";

/** A command of a transaction. It is always sent, because a transaction could stay open if one of its commands were missing. */
class TransactionCommand extends Command {
  override toWritable(socket: object): string | Buffer {
    if (socket instanceof Writable) writeTogether(socket);
    return super.toWritable(socket);
  }
}

/**
 * A command that records whether it was sent to the server. The command is not sent after its call has failed. A
 * command that changes data is sent a second time only if the server refused the first attempt, for example with a
 * redirection.
 */
class TrackedCommand extends Command {
  #sent = false;
  #keptBack = false;
  readonly #writes: boolean;
  readonly #deadline: Deadline;

  constructor({ name, given, writes }: Request, deadline: Deadline) {
    super(name, [...given]);
    conceal(this.args);
    this.#writes = writes;
    this.#deadline = deadline;
  }

  /** Whether the server may have carried out the command. */
  get sent(): boolean {
    return this.#sent;
  }

  /** Whether a PING was sent instead of the command. */
  get keptBack(): boolean {
    return this.#keptBack;
  }

  handTo(client: Redis | Cluster): void {
    void client.sendCommand(this);
    // The client of a Cluster has wrapped reject to follow redirections. A redirected command was not carried out.
    const redirect = this.reject;
    this.reject = (error) => {
      if (serverCodeOf(error) !== undefined) this.#sent = false;
      redirect(error);
    };
  }

  /**
   * Returns what ioredis writes to the socket for this command. ioredis may call this method long after `sendCommand`,
   * and again after the connection was lost.
   */
  override toWritable(socket: object): string | Buffer {
    if (socket instanceof Writable) writeTogether(socket);
    if (this.#deadline.passed || (this.#sent && this.#writes)) {
      // ioredis now waits for a reply, so a harmless command has to be sent.
      this.#keptBack = true;
      return ping;
    }
    this.#sent = true;
    return this.#inOnePiece() ?? super.toWritable(socket);
  }

  /**
   * Returns the command in one buffer, because ioredis would write each argument of bytes in three pieces. Returns
   * `undefined` for a short command, which ioredis writes itself.
   */
  #inOnePiece(): Buffer | undefined {
    const given: unknown[] = this.args;
    let mostBytes = maxOverheadBytes + this.name.length;
    for (const argument of given) {
      if (typeof argument !== "string" && !Buffer.isBuffer(argument)) return undefined;
      mostBytes += maxOverheadBytes + (typeof argument === "string" ? 3 * argument.length : argument.length);
    }
    if (mostBytes < leastInOnePiece) return undefined;
    const bytes = Buffer.allocUnsafeSlow(mostBytes);
    let at = bytes.write(`*${given.length + 1}\r\n$${this.name.length}\r\n${this.name}\r\n`, "latin1");
    for (const argument of given) {
      if (typeof argument === "string") {
        at += bytes.write(`$${Buffer.byteLength(argument)}\r\n${argument}\r\n`, at);
      } else if (Buffer.isBuffer(argument)) {
        at += bytes.write(`$${argument.length}\r\n`, at, "latin1");
        bytes.set(argument, at);
        at += argument.length;
        at += bytes.write("\r\n", at, "latin1");
      }
    }
    return bytes.subarray(0, at);
  }
}

/** Upper bound of the bytes that the protocol adds to an argument: `$`, the length, and two line ends. */
const maxOverheadBytes = 32;
const leastInOnePiece = 16 * 1024;

const corked = new WeakSet<Writable>();

/** Sends all commands of one turn of the event loop as one write. */
function writeTogether(socket: Writable): void {
  if (corked.has(socket)) return;
  corked.add(socket);
  socket.cork();
  process.nextTick(() => {
    corked.delete(socket);
    socket.uncork();
  });
}

function connect(source: string | URL | RedisOptions | ClusterSource, timeoutMs: number): Redis | Cluster {
  const prepared = prepare(source);
  concealLogins();
  try {
    return open(prepared, timeoutMs);
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    // Errors of ioredis may quote an option, and the error of an invalid URL has the whole URL.
    const name = error instanceof Error ? error.name : typeof error;
    throw new KeywardError("VALUE_INVALID", `ioredis refused the options of the connection to Redis (${name})`, {
      hint:
        "To find the invalid option, compare the options, and the nodes of a Cluster, with the TypeScript types " +
        "`RedisOptions` and `ClusterOptions` of ioredis.",
    });
  }
}

const redisUrl = {
  protocols: ["redis:", "rediss:"],
  form: "rediss://user:password@host:6379/0",
};

/**
 * Checks each URL of the source. Without this check, ioredis would quote the URL with its password in errors, and would
 * ignore parts of the URL that it does not know.
 */
function prepare(source: string | URL | RedisOptions | ClusterSource): string | RedisOptions | ClusterSource {
  if (typeof source === "string" || source instanceof URL) return checkedUrl("The URL of the Redis store", source);
  if (!isClusterSource(source)) return source;
  const nodes = source.nodes.map((node) =>
    typeof node === "string" ? checkedUrl("The URL of a node of the Cluster", node) : node,
  );
  return { ...source, nodes };
}

function checkedUrl(name: string, given: string | URL): string {
  // A text that begins with one slash is the path of a socket.
  if (typeof given === "string" && /^\/[^/]/.test(given)) return given;
  // Like in ioredis, a host without a protocol is allowed.
  const text = typeof given === "string" && !given.includes("//") && given !== "" ? `redis://${given}` : given;
  const url = requireUrl(name, text, redisUrl);
  if (url.hostname === "" || !/^\/?\d*$/.test(url.pathname)) {
    throw new KeywardError("VALUE_INVALID", `${name} has no host, or its path is not the number of a database`, {
      hint: `Write the URL as \`${redisUrl.form}\`. To connect to a Unix socket, pass only the path of the socket.`,
    });
  }
  return url.href;
}

function open(source: string | RedisOptions | ClusterSource, timeoutMs: number): Redis | Cluster {
  const shared = {
    // Ends before the call does, so that the call can report the reason.
    connectTimeout: Math.ceil(0.8 * timeoutMs),
    // Detects a server that has vanished without closing the connection, and rejects the commands that wait for it.
    socketTimeout: timeoutMs,
  };
  const enforced = {
    // The store decides whether a command is repeated: a write that arrives twice can undo a newer write.
    autoResendUnfulfilledCommands: false,
    // With any other number, ioredis never settles the commands that were in progress when the connection was lost.
    maxRetriesPerRequest: 0,
    replyMapping: "legacy",
  } as const;
  const retryStrategy = (times: number) => Math.min(25 * 2 ** times, mostRetryMs) * (0.5 + Math.random() / 2);
  if (typeof source === "object" && isClusterSource(source)) {
    const { nodes, options = {} } = source;
    return new Cluster([...nodes], {
      lazyConnect: true,
      clusterRetryStrategy: retryStrategy,
      slotsRefreshTimeout: timeoutMs,
      ...options,
      enableOfflineQueue: false,
      retryDelayOnFailover: 0,
      redisOptions: { ...shared, ...options.redisOptions, ...enforced },
    });
  }
  const options = {
    ...shared,
    lazyConnect: true,
    retryStrategy,
    // Limits the wait for a sentinel that hangs, so that there is time to ask the next one.
    sentinelCommandTimeout: timeoutMs / 4,
  };
  return typeof source === "string"
    ? new Redis(source, { ...options, ...enforced, enableOfflineQueue: false })
    : new Redis({ ...options, ...source, ...enforced, enableOfflineQueue: false });
}

function isClusterSource(source: RedisOptions | ClusterSource): source is ClusterSource {
  return "nodes" in source;
}

/** Recognises a client by its methods and not by its class, because it may come from another copy of ioredis, or iovalkey. */
function isClient(source: RedisSource): source is Redis | Cluster {
  return typeof source === "object" && "sendCommand" in source;
}

function isCluster(client: Redis | Cluster): client is Cluster {
  return client.isCluster;
}

function keyPrefixOf({ options }: Redis | Cluster): string {
  return options.keyPrefix ?? "";
}
