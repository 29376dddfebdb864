import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { callUrlField } from "./call-url.ts";
import { answerTime } from "./times.ts";

/** The answer of `GET /whoami`. */
export const whoAmI = z
  .object({
    tokenId: z.string().meta({ description: "The id of your token.", examples: ["t0ken0000001"] }),
    owner: z.string().meta({ examples: ["Ada Example"] }),
    role: fields.roleField.meta({ examples: ["admin"] }),
    workspace: z
      .string()
      .nullable()
      .meta({
        description: "The id of your workspace. `null` for an operator.",
        examples: ["w0rkspace001"],
      }),
    expires: answerTime.nullable().meta({ description: "When your token expires. `null` for never." }),
    callUrl: callUrlField,
  })
  .meta({ id: "WhoAmI", description: "Who you are." });

/** Who the caller is. */
export type WhoAmI = z.infer<typeof whoAmI>;
