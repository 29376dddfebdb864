import { z } from "zod";
import { answerTime } from "./times.ts";

const exampleKey = "key-2026-11";

/** The answer of `GET /keys/census`. */
export const keyCensus = z
  .object({
    primary: z.string().meta({ description: "The id of the primary key.", examples: [exampleKey] }),
    records: z.record(z.string(), z.int().min(0)).meta({
      description: "The number of records under each key, by the id of the key.",
      examples: [{ [exampleKey]: 42 }],
    }),
    unreadable: z
      .int()
      .min(0)
      .meta({ description: "The number of records that cannot be read, or are not encrypted.", examples: [0] }),
  })
  .meta({ id: "KeyCensus", description: "The number of records under each key. Contains no key material." });

/** The state of a key rotation. */
export const rotation = z
  .object({
    id: z.string().meta({ examples: ["rotation-0001"] }),
    kind: z.enum(["rotate", "roll-back", "revoke"]).meta({ examples: ["rotate"] }),
    order: z
      .enum(["reencrypt-first", "disable-first"])
      .nullable()
      .meta({ description: "The order of a revocation. `null` if the rotation is no revocation." }),
    from: z.string().meta({ description: "The id of the old key.", examples: ["key-2026-05"] }),
    to: z.string().meta({ description: "The id of the new key.", examples: [exampleKey] }),
    step: z
      .enum(["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove", "done"])
      .meta({ description: "The step that is in progress, or the next step. `done` after the last step." }),
    startedAt: answerTime,
    disabledAt: answerTime.nullable().meta({ description: "When the old key was disabled. `null` until then." }),
    generation: z
      .int()
      .nullable()
      .meta({ description: "The generation of the keyring when the rotation was done. `null` until then." }),
  })
  .meta({ id: "Rotation" });

/** The answer of `GET /keys/rotation`. */
export const rotationState = z
  .object({
    rotation: rotation.nullable().meta({ description: "`null` if the store contains no record of a rotation." }),
  })
  .meta({ id: "RotationState", description: "The rotation that is in progress, or the last one." });

/** The number of records under each key. Contains no key material. */
export type KeyCensus = z.infer<typeof keyCensus>;
/** The state of a key rotation. */
export type Rotation = z.infer<typeof rotation>;
