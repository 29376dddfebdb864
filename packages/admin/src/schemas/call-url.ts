import { z } from "zod";

/** The field of an answer with the URL of the gateway. */
export const callUrlField = z
  .string()
  .max(2_048)
  .nullable()
  .meta({
    description:
      "The URL of the gateway: callers reach a server at `/s/{slug}/mcp` or `/s/{slug}/{path}` below it, and all MCP servers at `/mcp`. `null` if the service runs without a gateway.",
    examples: ["https://keyward.example.com"],
  });
