// Starts a server and says which, then waits to be killed.
import { findMoto, startMoto } from "./moto.ts";

const { endpoint } = await startMoto(await findMoto());
console.log(JSON.stringify({ endpoint }));
setInterval(() => undefined, 1_000);
