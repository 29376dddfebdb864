import { Buffer } from "node:buffer";
import { shareConnection } from "@keyward/core";
import { Connection, executedOf, type Request, type ScannedServer } from "./connection.ts";
import { Deadline } from "./deadline.ts";
import { NotSent } from "./server-error.ts";

/** Options of `sendCommand` of the client of `@keyv/redis`. */
interface SendOptions {
  readonly abortSignal?: AbortSignal;
  readonly typeMapping: Readonly<Record<number, unknown>>;
}

type Words = (string | Buffer)[];

interface SingleClient {
  readonly isReady: boolean;
  connect(): Promise<unknown>;
  destroy(): void;
  sendCommand(words: Words, options: SendOptions): Promise<unknown>;
}

interface ClusterClient {
  readonly masters: readonly { readonly address: string }[];
  nodeClient(node: unknown): unknown;
  sendCommand(firstKey: string | Buffer, readOnly: boolean, words: Words, options: SendOptions): Promise<unknown>;
}

/** The members of an adapter of `@keyv/redis` through which a store reaches the server. */
export interface NodeRedisAdapter {
  /** Returns the adapter's client, which is connected or still connecting. */
  getClient(): Promise<unknown>;
  /** Returns whether the adapter's client is connected to a Cluster. */
  isCluster(): boolean;
  /** Returns whether the adapter's client is connected to a Sentinel group. */
  isSentinel?(): boolean;
  /**
   * Closes the client after the commands in progress. If `force` is true, closes it without waiting for these commands.
   */
  disconnect(force?: boolean): Promise<void>;
}

/** The types of replies (`$` and `=`) that the client returns as bytes instead of text. */
const asBytes = { 36: Buffer, 61: Buffer } as const;

/** Class names of the client's errors for a command that it has not sent. */
const notSent: ReadonlySet<string> = new Set([
  "ClientClosedError",
  "ClientOfflineError",
  "RootNodesUnavailableError",
  // The client of a Cluster throws a TypeError until it knows its nodes.
  "TypeError",
]);

/** A connection over the client of an adapter of `@keyv/redis`. */
export class NodeRedisConnection extends Connection {
  readonly #adapter: NodeRedisAdapter;
  readonly #release: () => Promise<void>;
  #connecting: Promise<unknown> | undefined;

  constructor(adapter: NodeRedisAdapter, timeoutMs: number) {
    super(timeoutMs);
    this.#adapter = adapter;
    this.#release = shareConnection(adapter, async () => adapter.disconnect(!(await this.#answers())));
  }

  override get isCluster(): boolean {
    return this.#adapter.isCluster();
  }

  override async servers(): Promise<readonly ScannedServer[]> {
    const client = await this.#client();
    if (!this.isCluster)
      return [{ address: "", transaction: (commands, deadline) => this.#transaction(client, commands, deadline) }];
    const cluster = requireClient(client, isClusterClient);
    return cluster.masters.map((node) => ({
      address: node.address,
      transaction: async (commands, deadline) => this.#transaction(await cluster.nodeClient(node), commands, deadline),
    }));
  }

  protected override async attempt({ name, given, writes }: Request, deadline: Deadline): Promise<unknown> {
    const client = await this.#client();
    const words = [name, ...given];
    const key = name.startsWith("EVAL") ? given[2] : given[0];
    try {
      if (!this.isCluster)
        return await requireClient(client, isSingleClient).sendCommand(words, optionsUntil(deadline));
      return await requireClient(client, isClusterClient).sendCommand(
        key ?? "",
        !writes,
        words,
        optionsUntil(deadline),
      );
    } catch (error) {
      if (!(error instanceof Error && notSent.has(error.constructor.name))) throw error;
      // Another user of the client may have closed it.
      this.#connecting = undefined;
      throw new NotSent("The command was not sent", { cause: error });
    }
  }

  protected override refresh(): void {
    // The client looks up the nodes by itself.
  }

  protected override leave(): void {
    if (this.isCluster || this.#connecting === undefined) return;
    void this.#connecting.then(
      (connected) => {
        const client = requireClient(connected, isSingleClient);
        if (!client.isReady) return;
        client.destroy();
        // The adapter would add its listeners to the client a second time.
        const connecting = client.connect().then(() => client);
        connecting.catch((error: unknown) => this.noteFailure(error));
        this.#connecting = connecting;
      },
      () => undefined,
    );
  }

  protected override async end(): Promise<void> {
    await this.#release();
  }

  /**
   * Returns whether the server replies within the timeout, which decides how the client is closed. A client that closes
   * without force waits for outstanding replies. If the server hangs, that client waits forever and can no longer be
   * destroyed.
   */
  async #answers(): Promise<boolean> {
    if (this.#connecting === undefined) return true;
    const deadline = new Deadline(this.timeoutMs);
    const asked = async () => {
      const servers = await this.servers();
      await Promise.all(servers.map((server) => server.transaction([["PING"]], deadline)));
      return true;
    };
    return await deadline.bound(asked(), () => new Error("The server did not reply")).catch(() => false);
  }

  /**
   * Waits until the client is connected, and returns the client. Concurrent calls share one attempt to connect, because
   * the adapter would return a client that is still connecting.
   */
  async #client(): Promise<unknown> {
    this.#connecting ??= this.#adapter.getClient();
    try {
      return await this.#connecting;
    } catch (error) {
      this.#connecting = undefined;
      throw new NotSent("The client is not connected", { cause: error });
    }
  }

  async #transaction(
    client: unknown,
    commands: readonly (readonly string[])[],
    deadline: Deadline,
  ): Promise<readonly unknown[]> {
    if (deadline.passed) throw new NotSent("The transaction was not sent", { cause: deadline.lastError });
    const single = requireClient(client, isSingleClient);
    // Without a signal: an abort would withdraw those commands that the client has not written yet.
    const replies = await Promise.all(
      [["MULTI"], ...commands, ["EXEC"]].map((words) => single.sendCommand([...words], { typeMapping: asBytes })),
    );
    return executedOf(replies);
  }
}

/** Returns options with which the client withdraws a command that it has not sent by the deadline. */
function optionsUntil(deadline: Deadline): SendOptions {
  return { abortSignal: deadline.signal, typeMapping: asBytes };
}

function requireClient<Client>(client: unknown, isOne: (client: unknown) => client is Client): Client {
  if (isOne(client)) return client;
  throw new TypeError("The client of the adapter is not a client of @redis/client");
}

function hasSendCommand(client: unknown): client is object {
  return typeof client === "object" && client !== null && typeof Reflect.get(client, "sendCommand") === "function";
}

function isSingleClient(client: unknown): client is SingleClient {
  return hasSendCommand(client);
}

function isClusterClient(client: unknown): client is ClusterClient {
  return hasSendCommand(client) && typeof Reflect.get(client, "nodeClient") === "function";
}
