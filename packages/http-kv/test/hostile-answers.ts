// Calls a server that sends a hostile answer, and prints the code of the error. Parameters: the shape of the answer, and
// the method to call.
import { once } from "node:events";
import { createServer } from "node:http";
import { EncryptedStore, Keyring } from "@keyward/core";
import { createApiKey, HttpStore } from "@keyward/http-kv";

const [shape = "", call = ""] = process.argv.slice(2);
const shapes: Record<string, { readonly before: string; readonly repeated: string; readonly pieces: number }> = {
  lists: { before: "", repeated: "[".repeat(2 ** 16), pieces: 1_024 },
  objects: { before: '{"values":[', repeated: "{},".repeat(2 ** 15), pieces: 1_024 },
  numbers: { before: '{"found":[', repeated: "0,".repeat(2 ** 15), pieces: 1_024 },
  space: { before: "{", repeated: " ".repeat(2 ** 16), pieces: 1_024 },
  refusal: { before: '{"code":"INTERNAL","message":"', repeated: "x".repeat(2 ** 16), pieces: 8_192 },
};
const { before, repeated, pieces } = shapes[shape] ?? { before: "", repeated: "", pieces: 0 };

const server = createServer(async (request, response) => {
  request.resume();
  response.on("error", () => undefined);
  response.writeHead(shape === "refusal" ? 400 : 200, { "content-type": "application/json" });
  response.write(before);
  for (let sent = 0; sent < pieces && !response.closed; sent++) {
    if (!response.write(repeated)) await Promise.race([once(response, "drain"), once(response, "close")]);
  }
  response.end();
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const address = server.address();
const url = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
const { apiKey } = createApiKey({ tenant: "acme" });
const store = new HttpStore({ url, apiKey, retries: 0 });
const act = async () => {
  switch (call) {
    case "has":
      return await store.has("key");
    case "iterate":
      return await store.iterator().next();
    default:
      return await new EncryptedStore(store, { keys: Keyring.generate() }).get("key");
  }
};
await act().then(
  () => console.log("answered"),
  (error: unknown) => console.log(Reflect.get(Object(error), "code")),
);
process.exit();
