import type { HttpBindings } from "@hono/node-server";
import type { Caller } from "@keyward/secrets";
import type { Context } from "hono";

/** What the middleware of the admin API hands on to the routes. */
export interface ApiEnvironment {
  /** The request and the response of Node.js. Other runtimes have none. */
  Bindings: Partial<HttpBindings>;
  /** The id of the request, and the holder of its token after the token was checked. */
  Variables: {
    requestId: string;
    caller: Caller | undefined;
  };
}

/** The context of a request. */
export type ApiContext = Context<ApiEnvironment>;
