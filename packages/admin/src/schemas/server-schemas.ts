import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { pageOf } from "./paging.ts";
import { answerTime } from "./times.ts";

const exampleUrl = "https://mcp.example.com/mcp";
const urlText = fields.urlField.meta({
  description: "The URL of the server: http or https, without a user, a password, a query and a fragment.",
  format: "uri",
  examples: [exampleUrl],
});

const forwardHeaders = fields.headersField.meta({
  description:
    "Headers of callers that the gateway forwards to the server, in addition to those that it always forwards. Stored in lower case, and without `*`. Headers that the gateway sets itself or must not forward, such as Authorization and Cookie, are refused.",
  examples: [["x-github-api-version"]],
});
const relayHeaders = fields.headersField.meta({
  description:
    "Headers of the server that the gateway relays to callers, in addition to those that it always relays. Stored in lower case, and without `*`. Headers that the gateway sets itself or must not relay, such as Set-Cookie, are refused.",
  examples: [["x-ratelimit-remaining"]],
});

/** The path parameter of the routes of one server. */
export const serverPath = z.strictObject({
  slug: fields.slugField.meta({ description: "The slug of a server.", examples: ["github"] }),
});

/** The body of `POST /mcp-servers`. */
export const newServer = z
  .strictObject({
    slug: fields.slugField.meta({ examples: ["github"] }),
    url: urlText,
    kind: fields.kindField.optional().meta({ description: "Default: mcp.", examples: ["mcp"] }),
    forwardHeaders: forwardHeaders.optional(),
    relayHeaders: relayHeaders.optional(),
  })
  .meta({ id: "NewServer" });

/** The body of `PATCH /mcp-servers/{slug}`. */
export const serverChange = z
  .strictObject({
    url: urlText.optional(),
    kind: fields.kindField.optional().meta({ examples: ["http"] }),
    forwardHeaders: forwardHeaders.optional(),
    relayHeaders: relayHeaders.optional(),
    disabled: z
      .boolean()
      .optional()
      .meta({ description: "True: calls to the server are refused.", examples: [true] }),
  })
  .meta({ id: "ServerChange", description: "The fields to change. An absent field keeps its value." });

/** The state of a server, as the calls of the answering process have shown it. */
export const serverState = z
  .object({
    status: z.enum(["unknown", "ready", "refused", "failed"]).meta({
      description:
        "`unknown`: this process of the service has not called the server since the last change of the server. `ready`: the server has answered. `refused`: the server has refused its credential. `failed`: the server could not be reached, did not answer in time, broke off its answer, or does not answer as MCP demands.",
      examples: ["failed"],
    }),
    since: answerTime
      .nullable()
      .meta({ description: "When this status began: each call since then has shown it. `null` for `unknown`." }),
    lastSeen: answerTime.nullable().meta({ description: "When a call last showed this status. `null` for `unknown`." }),
    lastError: z
      .object({
        at: answerTime,
        reason: z.string().meta({ examples: ["The server did not answer in time"] }),
      })
      .nullable()
      .meta({ description: "The last error, even if the server has answered since then. `null` if there was none." }),
  })
  .meta({
    id: "ServerState",
    description:
      "The state of the server, as the calls of the answering process have shown it. Another process may know another state. A change of the state does not change the revision.",
  });

/** A server, without its secrets. */
export const server = z
  .object({
    slug: fields.slugField.meta({ examples: ["github"] }),
    url: z.string().meta({ examples: [exampleUrl] }),
    kind: fields.kindField.meta({ examples: ["mcp"] }),
    forwardHeaders,
    relayHeaders,
    disabled: z.boolean().meta({ description: "True if calls to the server are refused.", examples: [false] }),
    revision: fields.revisionField.meta({
      description: "A number that grows with each change of the server or of one of its secrets.",
      examples: [3],
    }),
    created: answerTime,
    secretCount: z
      .int()
      .min(0)
      .meta({ examples: [1] }),
    deleting: z.boolean().meta({ description: "True while the server is being deleted.", examples: [false] }),
    state: serverState,
  })
  .meta({ id: "Server", description: "A server, without its secrets." });

/** The answer of `GET /mcp-servers`. */
export const serverPage = pageOf(server, "ServerPage");

/** The state of a server, as the calls of the answering process have shown it. */
export type ServerState = z.infer<typeof serverState>;
/** A server, without its secrets. */
export type Server = z.infer<typeof server>;
/** The body of a request of {@link AdminClient.createServer}. */
export type NewServer = z.input<typeof newServer>;
/** The body of a request of {@link AdminClient.updateServer}. */
export type ServerChange = z.input<typeof serverChange>;
