export { type MemorySpace, MemoryStore } from "./memory-store.ts";
