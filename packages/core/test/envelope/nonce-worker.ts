import { parentPort, workerData } from "node:worker_threads";
import { RootKey } from "../../src/envelope/root-key.ts";

const { material, draws }: { readonly material: Uint8Array; readonly draws: number } = workerData;
const root = new RootKey(material);
const nonces = Buffer.alloc(draws * 24);
for (let draw = 0; draw < draws; draw++) root.drawNonce(nonces, draw * 24, 64);
parentPort?.postMessage(nonces);
