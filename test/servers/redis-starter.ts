// Starts a server, prints its address, and waits until it is killed.
import { findRedisServers, startRedis } from "./redis.ts";

const node = await startRedis(await findRedisServers());
const [, directory] = [await node.command("CONFIG", "GET", "dir")].flat().map(String);
console.log(JSON.stringify({ port: node.port, directory }));
setInterval(() => undefined, 1_000);
