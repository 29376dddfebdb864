import { type ClientRequestArgs, Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";

// Node prints what a connection is made with where NODE_DEBUG names "net": of a request that includes its headers, and
// in those are credentials. A connection needs none of them.

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
