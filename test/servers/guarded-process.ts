import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** Where every server listens. */
export const host = "127.0.0.1";
const startMs = 30_000;

// Ends the server when its own input ends, which happens however the process at the other end dies. What Docker runs is
// not a child of its command. The data stays only where "keep" was said before.
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
wait "$pid" 2>/dev/null
[ "$said" = keep ] || [ -z "$KEYWARD_DATA" ] || rm -rf "$KEYWARD_DATA"`;

/** What a server leaves behind unless it is removed. */
export interface Belongings {
  /** The directory of its data. */
  readonly data?: string;
  /** The name of its container, where Docker runs it. */
  readonly container?: string;
}

/**
 * A server process that ends, with its data, when it is told to, and when the process that started it ends in any way,
 * `kill -9` included.
 */
export class GuardedProcess {
  readonly #guard: ChildProcess;
  readonly #pid: number;
  readonly #container: string | undefined;

  private constructor(guard: ChildProcess, pid: number, container: string | undefined) {
    this.#guard = guard;
    this.#pid = pid;
    this.#container = container;
  }

  static async start(command: readonly string[], { data, container }: Belongings): Promise<GuardedProcess> {
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // Out of the reach of a Ctrl-C, so that it is there to clean up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: data ?? "", KEYWARD_CONTAINER: container ?? "" },
    });
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    return new GuardedProcess(guard, Number(String(line)), container);
  }

  /** Connections stay, nothing answers. */
  pause(): void {
    if (this.#container === undefined) process.kill(this.#pid, "SIGSTOP");
    else execFileSync("docker", ["pause", this.#container]);
  }

  /** What was asked meanwhile is answered. */
  resume(): void {
    if (this.#container === undefined) process.kill(this.#pid, "SIGCONT");
    else execFileSync("docker", ["unpause", this.#container]);
  }

  /** `kill -9`. Resolves when it has ended, and its data is removed or kept. */
  async end(data: "keep" | "remove"): Promise<void> {
    const guard = this.#guard;
    const ended = guard.exitCode === null && guard.signalCode === null ? once(guard, "exit") : undefined;
    guard.stdin?.end(data);
    await ended;
  }
}

/** A port that nobody listens on just now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("No port was given");
  return address.port;
}

/** Resolves when it is so; a question that fails is asked again. */
export async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + startMs;
  let last: unknown;
  while (Date.now() < deadline) {
    try {
      if (await isSo()) return;
    } catch (error) {
      last = error;
    }
    await sleep(20);
  }
  throw new Error(`Not within ${startMs} ms: ${what}`, { cause: last });
}

/** What an error says, for the name of a suite. */
export function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n").slice(0, 1).join("");
}
