import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { networkOf } from "./client-address.ts";

interface Connection {
  readonly network: string;
  readonly responses: Set<ServerResponse>;
}

/**
 * The open connections of a server. If a new connection exceeds the limit, the server closes another connection, which
 * waits for its client. First the server chooses the client address with the most such connections. Of its connections,
 * the server closes the one that has waited longest.
 */
export class Connections {
  readonly #most: number;
  /** The open connections. Each request moves its connection to the end of the list, both when it begins and when it ends. */
  readonly #open = new Map<Socket, Connection>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Adds a new connection. If this exceeds the limit, closes a connection that waits for its client. */
  add(socket: Socket): void {
    this.#open.set(socket, { network: networkOf(socket.remoteAddress ?? ""), responses: new Set() });
    socket.once("close", () => this.#open.delete(socket));
    if (this.#open.size <= this.#most) return;
    const closed = this.#longestWaiting() ?? socket;
    this.#open.delete(closed);
    closed.destroy();
  }

  /**
   * Counts a request as in progress until its response is closed. Closes the connection and returns false if the client
   * sent the request before the answer to its previous request was complete. If this were allowed, a client could send
   * many requests in one packet, and the requests of other clients would wait.
   */
  begin(response: ServerResponse): boolean {
    const { socket } = response.req;
    const connection = this.#open.get(socket);
    if (connection === undefined) return !socket.destroyed;
    for (const { writableEnded } of connection.responses) {
      if (writableEnded) continue;
      socket.destroy();
      return false;
    }
    connection.responses.add(response);
    this.#moveToEnd(socket, connection);
    response.once("close", () => {
      connection.responses.delete(response);
      if (this.#open.has(socket)) this.#moveToEnd(socket, connection);
    });
    return true;
  }

  /** Closes the connections on which the client has sent nothing. Lets each response in progress close its connection. */
  end(): void {
    for (const [socket, { responses }] of this.#open) {
      if (socket.bytesRead === 0) socket.destroy();
      for (const response of responses) if (!response.headersSent) response.shouldKeepAlive = false;
    }
  }

  #longestWaiting(): Socket | undefined {
    const waiting = new Map<string, Socket[]>();
    let most: readonly Socket[] = [];
    for (const [socket, { network, responses }] of this.#open) {
      if (![...responses].every(waitsForClient)) continue;
      const ofNetwork = waiting.get(network) ?? [];
      ofNetwork.push(socket);
      waiting.set(network, ofNetwork);
      if (ofNetwork.length > most.length) most = ofNetwork;
    }
    return most[0];
  }

  #moveToEnd(socket: Socket, connection: Connection): void {
    this.#open.delete(socket);
    this.#open.set(socket, connection);
  }
}

/** Returns true if the server waits for the client to send the rest of the request, or to receive the rest of the answer. */
function waitsForClient({ req, writableEnded }: ServerResponse): boolean {
  return !req.complete || writableEnded;
}
