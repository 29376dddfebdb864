// Starts a server, prints its endpoint, and waits until it is killed.
import { findMoto, startMoto } from "./moto.ts";

const { endpoint } = await startMoto(await findMoto());
console.log(JSON.stringify({ endpoint }));
setInterval(() => undefined, 1_000);
