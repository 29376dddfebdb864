import { z } from "zod";
import type { Installation } from "./installation.ts";

const operationSchema = z.looseObject({
  operationId: z.string(),
  "x-keyward-right": z.string(),
  security: z.array(z.record(z.string(), z.array(z.string()))),
  responses: z.record(z.string(), z.looseObject({ description: z.string() })),
  requestBody: z.unknown().optional(),
});

const documentSchema = z.looseObject({ paths: z.record(z.string(), z.record(z.string(), operationSchema)) });

/** An operation of the served OpenAPI document. */
export interface Operation {
  readonly id: string;
  readonly right: string;
  readonly method: string;
  /** The path below the path of the API, with parameters such as `{slug}`. */
  readonly path: string;
  readonly statuses: readonly number[];
  readonly hasBody: boolean;
}

/** Reads the operations of the served OpenAPI document. */
export async function operationsOf(installation: Installation): Promise<readonly Operation[]> {
  const { json } = await installation.send(undefined, "GET", "/openapi.json");
  return Object.entries(documentSchema.parse(json).paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      id: operation.operationId,
      right: operation["x-keyward-right"],
      method: method.toUpperCase(),
      path: path.replace("/api/v1/admin", ""),
      statuses: Object.keys(operation.responses).map(Number),
      hasBody: operation.requestBody !== undefined,
    })),
  );
}
