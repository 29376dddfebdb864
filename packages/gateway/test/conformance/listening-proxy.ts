import { once } from "node:events";
import type { Server } from "node:http";

/** Lets a proxy listen on loopback. Returns the URL of its MCP endpoint, and a function that ends the proxy. */
export async function listeningProxy(
  server: Server,
): Promise<{ readonly url: string; readonly close: () => Promise<void> }> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new TypeError("The proxy has no port");
  return {
    url: `http://127.0.0.1:${address.port}/mcp`,
    close: async () => {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
