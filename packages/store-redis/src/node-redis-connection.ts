import { Buffer } from "node:buffer";
import { shareConnection } from "@keyward/core";
import { Connection, executedOf, type Request, type ScannedServer } from "./connection.ts";
import { Deadline } from "./deadline.ts";
import { NotSent } from "./server-error.ts";

/** How a command is to be sent, as the client of `@keyv/redis` takes it. */
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

/** What of an adapter of `@keyv/redis` is used to reach its server. */
export interface NodeRedisAdapter {
  /** The client, connected or connecting. */
  getClient(): Promise<unknown>;
  /** Whether it is the client of a Cluster. */
  isCluster(): boolean;
  /** Whether it is the client of a Sentinel group. */
  isSentinel?(): boolean;
  /** Closes the client; with `force`, without waiting for what is under way. */
  disconnect(force?: boolean): Promise<void>;
}

/** The types of replies that come as bytes instead of text: `$` and `=`. */
const asBytes = { 36: Buffer, 61: Buffer } as const;

/** What the client fails with before it has sent anything. */
const notSent: ReadonlySet<string> = new Set([
  "ClientClosedError",
  "ClientOfflineError",
  "RootNodesUnavailableError",
  // Of a Cluster that does not know its nodes yet.
  "TypeError",
]);

/** A connection over the client that an adapter of `@keyv/redis` has. */
export class NodeRedisConnection extends Connection {
  readonly #adapter: NodeRedisAdapter;
  readonly #leave: () => Promise<void>;
  #connecting: Promise<unknown> | undefined;

  constructor(adapter: NodeRedisAdapter, timeoutMs: number) {
    super(timeoutMs);
    this.#adapter = adapter;
    this.#leave = shareConnection(adapter, async () => adapter.disconnect(!(await this.#answers())));
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
      // It may have been closed behind our back.
      this.#connecting = undefined;
      throw new NotSent("The command was not sent", { cause: error });
    }
  }

  protected override refresh(): void {
    // The client looks for its nodes by itself.
  }

  protected override leave(): void {
    if (this.isCluster || this.#connecting === undefined) return;
    void this.#connecting.then(
      (connected) => {
        const client = requireClient(connected, isSingleClient);
        if (!client.isReady) return;
        client.destroy();
        // Not by the adapter, which would add its listeners to the client once more.
        const connecting = client.connect().then(() => client);
        connecting.catch((error: unknown) => this.noteFailure(error));
        this.#connecting = connecting;
      },
      () => undefined,
    );
  }

  protected override async end(): Promise<void> {
    await this.#leave();
  }

  /** A client that closes waits for what it has sent, of a server that hangs for ever, and cannot be destroyed any more. */
  async #answers(): Promise<boolean> {
    if (this.#connecting === undefined) return true;
    const deadline = new Deadline(this.timeoutMs);
    const asked = async () => {
      const servers = await this.servers();
      await Promise.all(servers.map((server) => server.transaction([["PING"]], deadline)));
      return true;
    };
    return await deadline.bound(asked(), () => new Error("The server did not answer")).catch(() => false);
  }

  /** Once for all who ask while it connects: the adapter hands out a client that is only beginning to. */
  async #client(): Promise<unknown> {
    this.#connecting ??= this.#adapter.getClient();
    try {
      return await this.#connecting;
    } catch (error) {
      this.#connecting = undefined;
      throw new NotSent("There is no connection", { cause: error });
    }
  }

  async #transaction(
    client: unknown,
    commands: readonly (readonly string[])[],
    deadline: Deadline,
  ): Promise<readonly unknown[]> {
    if (deadline.passed) throw new NotSent("The transaction was not sent", { cause: deadline.lastError });
    const single = requireClient(client, isSingleClient);
    // Without a signal: the client would take back those of them that it has not written yet.
    const replies = await Promise.all(
      [["MULTI"], ...commands, ["EXEC"]].map((words) => single.sendCommand([...words], { typeMapping: asBytes })),
    );
    return executedOf(replies);
  }
}

/** A command that still waits to be sent at the deadline is taken back. */
function optionsUntil(deadline: Deadline): SendOptions {
  return { abortSignal: deadline.signal, typeMapping: asBytes };
}

function requireClient<Client>(client: unknown, isOne: (client: unknown) => client is Client): Client {
  if (isOne(client)) return client;
  throw new TypeError("The client of the adapter is not one of @redis/client");
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
