// Starts a server and says which, then waits to be killed.
import { findRedisServers, startRedis } from "./redis.ts";

const node = await startRedis(await findRedisServers());
const [, pid] = /^process_id:(\d+)/m.exec(String(await node.command("INFO", "server"))) ?? [];
const [, directory] = [await node.command("CONFIG", "GET", "dir")].flat().map(String);
console.log(JSON.stringify({ pid: Number(pid), directory }));
setInterval(() => undefined, 1_000);
