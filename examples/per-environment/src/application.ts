// The application, which is the same in every environment. APP_KEYS is the source of its keys.
import { createKeyv } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { SqliteStore } from "@keyward/store-sqlite";

const sessions = createKeyv({
  store: new SqliteStore(process.env["APP_RECORDS"] ?? "sessions.sqlite"),
  keys: await keysFrom(process.env["APP_KEYS"]),
  namespace: "sessions",
});

const visits = Number((await sessions.get("visits")) ?? 0) + 1;
await sessions.set("visits", visits);
console.log(`visit ${visits}`);
await sessions.disconnect();
