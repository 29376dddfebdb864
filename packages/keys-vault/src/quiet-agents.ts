import { type ClientRequestArgs, Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";

// If NODE_DEBUG contains "net", Node.js prints the options of each connection. They include the headers of the request,
// and with them credentials. A connection does not need the headers.

export class QuietHttpAgent extends HttpAgent {
  override createConnection(...[options, ...rest]: Parameters<HttpAgent["createConnection"]>) {
    return super.createConnection(withoutHeaders(options), ...rest);
  }
}

export class QuietHttpsAgent extends HttpsAgent {
  override createConnection(...[options, ...rest]: Parameters<HttpsAgent["createConnection"]>) {
    return super.createConnection(withoutHeaders(options), ...rest);
  }
}

function withoutHeaders<Options extends ClientRequestArgs>(options: Options): Omit<Options, "headers" | "auth"> {
  const { headers: _headers, auth: _auth, ...connection } = options;
  return connection;
}
