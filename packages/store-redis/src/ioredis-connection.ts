import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import { KeywardError, type Repetition, Repetitions, requireUrl, shareListener } from "@keyward/core";
import { Cluster, type ClusterNode, type ClusterOptions, Command, Redis, type RedisOptions } from "ioredis";
import { Connection, executedOf, type Request, type ScannedServer, unavailable } from "./connection.ts";
import type { Deadline } from "./deadline.ts";
import { isWithoutDatabase, problemOf } from "./problems.ts";
import { bareError, NotSent, serverCodeOf } from "./server-error.ts";

/** A Redis Cluster that a store is to connect to. */
export interface ClusterSource {
  /** Some of its nodes; the others are found through them. */
  readonly nodes: readonly ClusterNode[];
  /** As ioredis takes them; passwords and TLS are in their `redisOptions`. */
  readonly options?: ClusterOptions;
}

/** What a store connects to: a URL, options of ioredis, a Cluster, or a client that exists and that it does not close. */
export type RedisSource = string | URL | RedisOptions | ClusterSource | Redis | Cluster;

const pollMs = 10;
const mostRetryMs = 1_000;
const refreshMs = 100;

/** A connection over ioredis, or over iovalkey, which has the same roots. */
export class IoredisConnection extends Connection {
  readonly #client: Redis | Cluster;
  readonly #ours: boolean;
  /** Takes off what listens to the client. */
  readonly #unlisten: readonly (() => void)[];
  #refreshAtMs = 0;
  #wrongDatabase: Error | undefined;

  /** @param failed hears of what goes wrong in the background. */
  constructor(source: RedisSource, timeoutMs: number, failed: (error: Error, repetition: Repetition) => void) {
    super(timeoutMs);
    this.#ours = !isClient(source);
    this.#client = isClient(source) ? source : connect(source, timeoutMs);
    if (keyPrefixOf(this.#client) !== "") {
      throw new KeywardError("VALUE_INVALID", "The ioredis option keyPrefix is set, which SCAN does not heed", {
        hint: "Remove it, and give the store the option prefix.",
      });
    }
    const repetitions = new Repetitions();
    const tell = (error: unknown) => {
      this.noteFailure(error);
      // ioredis goes on with the database 0, where others may have their records.
      if (isWithoutDatabase(error)) this.#wrongDatabase = bareError(error);
      const bare = bareError(error);
      const repetition = repetitions.occurred(bare);
      if (repetition !== undefined) failed(bare, repetition);
    };
    const client = this.#client;
    this.#unlisten = [
      shareListener(client, "error", tell),
      shareListener(client, "node error", tell),
      // What kept it from connecting before says nothing about the next time.
      shareListener(client, "ready", () => {
        this.noteSuccess();
        repetitions.succeeded();
      }),
    ];
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
    if (!this.#ours) return;
    // What fails while it closes is of no interest, and would be printed where nothing listens.
    this.#client.on("error", () => undefined);
    // ioredis listens to one error of a socket, and a TLS handshake that is cut short has two: the second would end the process.
    for (const node of isCluster(this.#client) ? this.#client.nodes() : [this.#client]) {
      const socket: unknown = Reflect.get(node, "stream");
      if (socket instanceof EventEmitter) socket.on("error", () => undefined);
    }
    this.#client.disconnect();
  }

  async #ready(deadline: Deadline): Promise<void> {
    const client = this.#client;
    while (client.status !== "ready") {
      if (client.status === "wait") client.connect().catch(() => undefined);
      if (deadline.passed) throw this.tooLate(deadline);
      if (client.status === "end") {
        const { message, hint } = problemOf(this.failure) ?? {
          message: "There is no connection to Redis",
          hint: "Start the server, or check its address.",
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

/** With DEBUG=ioredis:* set, ioredis prints the arguments of commands: of these it prints nothing. */
function conceal<Arguments extends object>(given: Arguments): Arguments {
  return Object.assign(given, concealed);
}

/** Nor of those that log in, on whichever connection: also on those that ioredis opens for a Cluster, or to sentinels. */
function concealLogins(): void {
  for (const name of ["auth", "hello"]) Command.setArgumentTransformer(name, conceal);
}

const ping = "*1\r\n$4\r\nPING\r\n";

/** A command of a transaction. It leaves whatever happens, since the others of the transaction do. */
class TransactionCommand extends Command {
  override toWritable(socket: object): string | Buffer {
    if (socket instanceof Writable) writeTogether(socket);
    return super.toWritable(socket);
  }
}

/**
 * A command that knows whether it has left for the server. It leaves no more once its caller was told that it failed, and
 * one that writes leaves a second time only where the server refused it the first time, as with a redirection.
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

  /** Whether the server may have carried it out. */
  get sent(): boolean {
    return this.#sent;
  }

  /** Whether something else was sent in its place. */
  get keptBack(): boolean {
    return this.#keptBack;
  }

  handTo(client: Redis | Cluster): void {
    void client.sendCommand(this);
    // By now a Cluster has put its redirections in between. What it redirects was not carried out.
    const redirect = this.reject;
    this.reject = (error) => {
      if (serverCodeOf(error) !== undefined) this.#sent = false;
      redirect(error);
    };
  }

  /** ioredis calls it when it writes the command, which may be long after it was handed over, and again after a loss. */
  override toWritable(socket: object): string | Buffer {
    if (socket instanceof Writable) writeTogether(socket);
    if (this.#deadline.passed || (this.#sent && this.#writes)) {
      // A reply is waited for in any case, so something has to be sent.
      this.#keptBack = true;
      return ping;
    }
    this.#sent = true;
    return this.#inOnePiece() ?? super.toWritable(socket);
  }

  /**
   * What ioredis would write, put together at once: it makes three pieces of each argument that is bytes. `undefined` for
   * a command that is short, which ioredis writes as text.
   */
  #inOnePiece(): Buffer | undefined {
    const given: unknown[] = this.args;
    let mostBytes = mostAround + this.name.length;
    for (const argument of given) {
      if (typeof argument !== "string" && !Buffer.isBuffer(argument)) return undefined;
      mostBytes += mostAround + (typeof argument === "string" ? 3 * argument.length : argument.length);
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

/** No fewer than stand around an argument: a mark, a number, and the ends of two lines. */
const mostAround = 32;
const leastInOnePiece = 16 * 1024;

const corked = new WeakSet<Writable>();

/** What is sent in one turn of the event loop goes out as one write. */
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
    // What ioredis throws may quote an option, and the error of a URL carries the whole of it.
    const name = error instanceof Error ? error.name : typeof error;
    throw new KeywardError("VALUE_INVALID", `ioredis does not take these options (${name})`, {
      hint: "Compare the options, and the nodes of a Cluster, with the types of ioredis.",
    });
  }
}

const redisUrl = {
  protocols: ["redis:", "rediss:"],
  form: "rediss://user:password@host:6379/0",
};

/** The source with each URL checked: ioredis throws errors that carry the URL, and takes what does not fit for less. */
function prepare(source: string | URL | RedisOptions | ClusterSource): string | RedisOptions | ClusterSource {
  if (typeof source === "string" || source instanceof URL) return checkedUrl("The URL of Redis", source);
  if (!isClusterSource(source)) return source;
  const nodes = source.nodes.map((node) =>
    typeof node === "string" ? checkedUrl("The URL of a node of the Cluster", node) : node,
  );
  return { ...source, nodes };
}

function checkedUrl(name: string, given: string | URL): string {
  // The path of a socket.
  if (typeof given === "string" && /^\/[^/]/.test(given)) return given;
  // As ioredis has it, a host alone will do.
  const text = typeof given === "string" && !given.includes("//") && given !== "" ? `redis://${given}` : given;
  const url = requireUrl(name, text, redisUrl);
  if (url.hostname === "" || !/^\/?\d*$/.test(url.pathname)) {
    throw new KeywardError("VALUE_INVALID", `${name} has no host, or another path than the number of a database`, {
      hint: `Write it as ${redisUrl.form}. For a socket, pass its path alone.`,
    });
  }
  return url.href;
}

function open(source: string | RedisOptions | ClusterSource, timeoutMs: number): Redis | Cluster {
  const shared = {
    // Ends before the call does, so that the call can say so.
    connectTimeout: Math.ceil(0.8 * timeoutMs),
    // A peer that is gone without a word is found out, and what waits for it is rejected.
    socketTimeout: timeoutMs,
  };
  const enforced = {
    // Whether a command is sent again is decided by the store: a write that arrives twice can undo a newer one.
    autoResendUnfulfilledCommands: false,
    // With another number, ioredis leaves what was under way at a loss without an answer.
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
    // Of a sentinel that hangs, so that there is time to ask the next.
    sentinelCommandTimeout: timeoutMs / 4,
  };
  return typeof source === "string"
    ? new Redis(source, { ...options, ...enforced, enableOfflineQueue: false })
    : new Redis({ ...options, ...source, ...enforced, enableOfflineQueue: false });
}

function isClusterSource(source: RedisOptions | ClusterSource): source is ClusterSource {
  return "nodes" in source;
}

/** By what it can do and not by its class: there may be several copies of ioredis, and iovalkey is like it. */
function isClient(source: RedisSource): source is Redis | Cluster {
  return typeof source === "object" && "sendCommand" in source;
}

function isCluster(client: Redis | Cluster): client is Cluster {
  return client.isCluster;
}

function keyPrefixOf({ options }: Redis | Cluster): string {
  return options.keyPrefix ?? "";
}
