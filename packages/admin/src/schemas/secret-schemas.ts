import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { server, serverPath } from "./server-schemas.ts";
import { answerTime, timeText } from "./times.ts";

const { least, most } = fields.valueBytes;
const exampleName = "API_TOKEN";
const exampleOrigin = "https://mcp.example.com";

/** The path parameters of the routes of one secret. */
export const secretPath = serverPath.extend({
  name: fields.secretNameField.meta({ description: "The name of a secret.", examples: [exampleName] }),
});

/** How a value enters the request to its server. */
export const injection = fields.ruleField.meta({
  id: "Injection",
  description: "How the value enters the request to its server.",
  examples: [{ kind: "bearer" }],
});

/** The body of `POST /mcp-servers/{slug}/secrets`. */
export const newSecret = z
  .strictObject({
    name: fields.secretNameField.meta({ examples: [exampleName] }),
    value: z
      .string()
      .max(most, { error: `must have at most ${most} bytes`, abort: true })
      .refine((value) => Buffer.byteLength(value) >= least, `must have at least ${least} bytes`)
      .refine((value) => Buffer.byteLength(value) <= most, `must have at most ${most} bytes`)
      .refine((value) => value.isWellFormed() && !/\p{Cc}/u.test(value), "must not contain control characters")
      .refine((value) => value === value.trim(), "must not have white space at either end")
      .meta({
        description: `The value, which no route returns: ${least} to ${most} bytes of UTF-8, without control characters and without white space at either end.`,
        format: "password",
        writeOnly: true,
        examples: ["replace-this-value"],
      }),
    injection: injection.optional(),
    expires: timeText.optional().meta({ description: "When the value expires. Default: never." }),
    redacted: z
      .boolean()
      .optional()
      .meta({ description: "Whether answers of the server are searched for the value. Default: true." }),
    expectedOrigin: fields.urlField.optional().meta({
      description: "The origin that you expect. If the server has another origin, the value is refused and not stored.",
      examples: [exampleOrigin],
    }),
  })
  .meta({ id: "NewSecret" });

/** Why calls cannot use a value. */
export const secretUnusable = z.enum(["origin-changed", "expired"]).nullable().meta({
  description: "Why calls cannot use the value. `null` if they can.",
});

/** The properties of a secret, without its value. */
export const secret = z
  .object({
    name: fields.secretNameField.meta({ examples: [exampleName] }),
    injection,
    revision: fields.revisionField.meta({
      description: "The revision of the server at which the value was set.",
      examples: [2],
    }),
    setAt: answerTime,
    setBy: z.string().meta({ description: "The owner of the token with which the value was set." }),
    expires: answerTime.nullable().meta({ description: "When the value expires. `null` for never." }),
    lastUsed: answerTime
      .nullable()
      .meta({ description: "When a call last used the value, to about a minute. `null` for never." }),
    weak: z.boolean().meta({
      description: `True if the value has fewer than ${fields.weakBelowBytes} bytes, so that it could be guessed.`,
      examples: [false],
    }),
    redacted: z
      .boolean()
      .meta({ description: "True if answers of the server are searched for the value.", examples: [true] }),
    origin: z.string().meta({
      description: "The scheme, host and port that the value is bound to. The value is never sent to another origin.",
      examples: [exampleOrigin],
    }),
    unusable: secretUnusable,
  })
  .meta({ id: "Secret", description: "The properties of a secret, without its value." });

/** The answer of `POST /mcp-servers/{slug}/secrets` and `PUT …/injection`. */
export const secretChange = z
  .object({
    secret,
    created: z.boolean().meta({ description: "False if the secret had a value before.", examples: [true] }),
    warnings: z.array(z.string()).meta({ description: "Sentences that warn of a likely mistake.", examples: [[]] }),
  })
  .meta({ id: "SecretChange" });

/** The answer of `GET /mcp-servers/{slug}/secrets`. */
export const secretList = z
  .object({ server, secrets: z.array(secret).max(fields.maxSecretsOfServer) })
  .meta({ id: "SecretList", description: "All secrets of a server, sorted by name." });

/** The answer of `DELETE /mcp-servers/{slug}/secrets`. */
export const deletedSecrets = z
  .object({ server, names: z.array(fields.secretNameField).meta({ description: "The names of the deleted secrets." }) })
  .meta({ id: "DeletedSecrets" });

/** How a value enters the request to its server. */
export type Injection = z.input<typeof injection>;
/** The body of a request of {@link AdminClient.setSecret}. */
export type NewSecret = z.input<typeof newSecret>;
/** The properties of a secret, without its value. */
export type Secret = z.infer<typeof secret>;
/** The result of {@link AdminClient.setSecret} and {@link AdminClient.setInjection}. */
export type SecretChange = z.infer<typeof secretChange>;
/** All secrets of a server, sorted by name. */
export type SecretList = z.infer<typeof secretList>;
/** The result of {@link AdminClient.deleteAllSecrets}. */
export type DeletedSecrets = z.infer<typeof deletedSecrets>;
