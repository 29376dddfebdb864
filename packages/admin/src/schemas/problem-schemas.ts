import { z } from "zod";

/** A refused field: its position and its rule. Does not contain the value that was sent. */
export const refusedField = z.object({
  in: z.enum(["body", "query", "path", "header"]),
  name: z.string().meta({ description: "The field, such as `injection.header`. Empty for the whole body." }),
  rule: z.string().meta({ description: "The rule that the field must follow." }),
});

/** The body of every error: problem details (RFC 9457). */
export const problem = z
  .object({
    type: z.string().meta({ description: "A link to the page about the code.", format: "uri-reference" }),
    title: z.string().meta({ description: "What kind of failure it is.", examples: ["Not found"] }),
    status: z
      .int()
      .min(400)
      .max(599)
      .meta({ examples: [404] }),
    detail: z.string().meta({ description: "What failed." }),
    code: z.string().meta({ description: "The code of the failure, the same in every release." }),
    hint: z.string().meta({ description: "What to do next." }),
    instance: z.string().meta({
      description: "The id of the request, as the log of the service names it.",
      format: "uri-reference",
    }),
    fields: z.array(refusedField).max(20).optional(),
  })
  .meta({ id: "Problem", description: "What failed, and what to do next (RFC 9457)." });

/** The body of every error: problem details (RFC 9457). */
export type Problem = z.infer<typeof problem>;
