// Starts a server and says where it is, then waits to be killed.
import { findVaultServers, startVault } from "./openbao.ts";

const { address } = await startVault(await findVaultServers());
console.log(JSON.stringify({ address }));
setInterval(() => undefined, 1_000);
