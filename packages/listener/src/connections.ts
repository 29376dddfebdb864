import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { networkOf } from "./client-address.ts";

interface Connection {
  readonly network: string;
  readonly responses: Set<ServerResponse>;
}

/**
 * The open connections of a server. A new connection is always served: when there are too many, the connection that has
 * waited longest for its client is closed, among those of the address that has most of them.
 */
export class Connections {
  readonly #most: number;
  /** In the order in which they last began or ended a request. */
  readonly #open = new Map<Socket, Connection>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Adds a connection that was opened. */
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
   * sent the request before the answer to its previous request was complete. Otherwise one packet with many
   * requests would keep the process from the requests of other clients.
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

  /** Closes the connections that have sent nothing, and lets every other one end with its last response. */
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

/** Returns whether the client has still to send the rest of the request, or to receive the rest of the answer. */
function waitsForClient({ req, writableEnded }: ServerResponse): boolean {
  return !req.complete || writableEnded;
}
