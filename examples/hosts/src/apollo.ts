// Apollo Server: a cache of persisted queries that is encrypted.
import { createRequire } from "node:module";
import { ApolloServer } from "@apollo/server";
import { KeyvAdapter } from "@apollo/utils.keyvadapter";
import type { KeywardKeyv } from "@keyward/core";

// The types of KeyvAdapter name the CommonJS build of Keyv 5, whose types differ from those of `import { Keyv } from "keyv"`.
const { Keyv }: typeof import("keyv", { with: { "resolution-mode": "require" }}) = createRequire(import.meta.url)(
  "keyv",
);

/** A server that keeps its cache in a Keyv that `createKeyv` made. */
export function apolloServer(cached: KeywardKeyv, report: (error: unknown) => void): ApolloServer {
  const keyv = new Keyv<string>({
    store: cached,
    ttl: 24 * 60 * 60_000, // Apollo sets no ttl for persisted queries. Without a ttl, they never expire
    useKeyPrefix: false,
    throwOnErrors: true,
  });
  keyv.on("error", report);
  return new ApolloServer({
    typeDefs: "type Query { greeting(name: String!): String! }",
    resolvers: { Query: { greeting: (_: unknown, { name }: { name: string }) => `Hello ${name}` } },
    // A batch of reads would reject as a whole if one of its records cannot be decrypted.
    cache: new KeyvAdapter(keyv, { disableBatchReads: true }),
  });
}
