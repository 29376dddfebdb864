import { z } from "zod";

/** The query parameters of every list. */
export const pageQuery = z.strictObject({
  limit: z
    .stringFormat("limit", /^[0-9]{1,3}$/, "a whole number from 1 to 100")
    .transform(Number)
    .pipe(z.int().min(1).max(100))
    .optional()
    .meta({
      // The generator would describe the text of the query.
      type: "integer",
      minimum: 1,
      maximum: 100,
      description: "The largest number of items on the page. Default: 50.",
      examples: [50],
    }),
  cursor: z
    .string()
    .min(1)
    .max(512)
    .optional()
    .meta({ description: "The `next` of the previous page. Default: the first page, which has the newest items." }),
});

/** Returns the schema of a page of a list. */
export function pageOf<Item extends z.ZodType>(item: Item, id: string) {
  return z
    .object({
      items: z.array(item).max(100),
      next: z.string().nullable().meta({ description: "The cursor of the next page. `null` on the last page." }),
      unreadable: z.array(z.string()).meta({
        description:
          "The slugs, ids or names of items on this page that cannot be read in full, because their records were damaged or replaced by older versions.",
        examples: [[]],
      }),
    })
    .meta({ id, description: "A page of a list, newest items first." });
}
