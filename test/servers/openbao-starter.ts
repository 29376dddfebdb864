// Starts a server, prints its address, and waits until it is killed.
import { findVaultServers, startVault } from "./openbao.ts";

const { address } = await startVault(await findVaultServers());
console.log(JSON.stringify({ address }));
setInterval(() => undefined, 1_000);
