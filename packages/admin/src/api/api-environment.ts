import type { Caller } from "@keyward/secrets";
import type { Context } from "hono";

/** The types of a Hono context: what the HTTP server passes in, and what middleware stores for the routes. */
export interface ApiEnvironment {
  /** The connection of the request, as `@hono/node-server` passes it. Other runtimes pass no connection. */
  Bindings: { readonly incoming?: { readonly socket: { readonly remoteAddress?: string | undefined } } };
  /** The id of the request, and its caller. The caller is `undefined` until the token was checked. */
  Variables: { requestId: string; caller: Caller | undefined };
}

/** The context of a request. */
export type ApiContext = Context<ApiEnvironment>;
