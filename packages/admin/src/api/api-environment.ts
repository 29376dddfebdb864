import type { Caller } from "@keyward/secrets";
import type { Context } from "hono";

/** What the admin API needs of the server that calls it, and what its middleware hands on to the routes. */
export interface ApiEnvironment {
  /** The connection of the request, as `@hono/node-server` passes it. Other runtimes pass no connection. */
  Bindings: { readonly incoming?: { readonly socket: { readonly remoteAddress?: string | undefined } } };
  /** The id of the request, and the caller once the token was checked. */
  Variables: { requestId: string; caller: Caller | undefined };
}

/** The context of a request. */
export type ApiContext = Context<ApiEnvironment>;
