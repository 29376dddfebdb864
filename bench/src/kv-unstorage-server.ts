// Serves unstorage's HTTP server over its memory driver.
import { createServer } from "node:http";
import { createStorage } from "unstorage";
import { createStorageServer } from "unstorage/server";

const server = createServer(createStorageServer(createStorage()).handle);
server.listen(0, "127.0.0.1", () => {
  const address = server.address();
  console.log(`listens on http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`);
});
