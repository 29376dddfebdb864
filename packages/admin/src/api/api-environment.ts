import type { HttpBindings } from "@hono/node-server";
import type { Caller } from "@keyward/secrets";
import type { Context } from "hono";

/** What the middleware of the admin API hands on to the routes. */
export interface ApiEnvironment {
  // Other runtimes than Node.js have no such bindings.
  Bindings: Partial<HttpBindings>;
  Variables: {
    requestId: string;
    caller: Caller | undefined;
  };
}

/** The context of a request. */
export type ApiContext = Context<ApiEnvironment>;
