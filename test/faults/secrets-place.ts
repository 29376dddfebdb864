import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { exportKeyring, Keyring } from "@keyward/core";
import { type FileKeys, fileKeys } from "@keyward/keys-env";
import { type IssuedToken, SecretsAdmin, SecretsError } from "@keyward/secrets";
import { expect, onTestFinished } from "vitest";
import { guardMaterial } from "../store/secrets.ts";
import { openStore } from "./open-store.ts";
import { contradictionsIn, leftoversIn } from "./secrets-leftovers.ts";
import { acceptingAudit, recordsOf } from "./secrets-view.ts";
import { temporaryFolder } from "./sqlite.ts";

const dayMs = 24 * 3_600_000;

/** A service in a store that several processes share, with two admins. */
export interface SharedService {
  readonly folder: string;
  /** The path of a SQLite file, or the URL of Redis. */
  readonly address: string;
  readonly keyringPath: string;
  readonly keys: FileKeys;
  readonly admins: readonly IssuedToken[];
}

/** Initializes a service in a Redis, or in a new SQLite file. */
export async function startSharedService(server?: string): Promise<SharedService> {
  const folder = await temporaryFolder();
  const [address, keyringPath] = [server ?? join(folder, "service.db"), join(folder, "keyring.json")];
  await writeFile(keyringPath, exportKeyring(guardMaterial(Keyring.generate("first"))), { mode: 0o600 });
  const keys = fileKeys(keyringPath);
  const store = openStore(address);
  const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
  const first = await admin.initialize();
  const caller = await admin.authenticate(first.admin.token);
  const second = await admin.createToken(caller, { owner: "second admin", role: "admin" });
  await admin.close();
  await store.disconnect();
  return { folder, address, keyringPath, keys, admins: [first.admin, second] };
}

/** Sweeps as if days had passed. Expects that no unused record remains, and that no record is missing. */
export async function expectWholeAfterSweep({ address, keys }: Pick<SharedService, "address" | "keys">): Promise<void> {
  const store = openStore(address);
  const problems: unknown[] = [];
  const onProblem = (problem: unknown) => problems.push(problem);
  const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit, onProblem });
  try {
    const place = { store: store.namespaced(""), keys: await keys.load() };
    expect(contradictionsIn(await recordsOf(place))).toEqual([]);
    // The first sweep after a long pause removes nothing, and reports the pause.
    for (const days of [2, 4, 200, 200.5, 201]) {
      await admin.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    }
    const records = await recordsOf(place);
    expect(contradictionsIn(records)).toEqual([]);
    expect(leftoversIn(records)).toEqual([]);
    expect(problems.filter((problem) => !(problem instanceof SecretsError && problem.code === "CLOCK_JUMPED"))).toEqual(
      [],
    );
  } finally {
    await admin.close();
    await store.disconnect();
  }
}

/** A process that runs a script of this folder. It is killed at the end of the test. */
export class ScriptProcess {
  readonly child: ChildProcess;
  readonly #exited: Promise<unknown[]>;

  constructor(script: string, given: readonly string[]) {
    const path = fileURLToPath(new URL(script, import.meta.url));
    this.child = fork(path, given, { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
    this.#exited = once(this.child, "exit");
    onTestFinished(async () => await this.kill());
  }

  /** Resolves with the next message of the process. */
  async message(): Promise<unknown> {
    return await new Promise((resolve, reject) => {
      this.child.once("message", resolve);
      this.#exited.then(([code]) => reject(new Error(`The process has ended with ${String(code)}`)), reject);
    });
  }

  /** Resolves when the process has ended by itself. Rejects if it failed. */
  async end(): Promise<void> {
    this.child.send("end");
    const [code] = await this.#exited;
    if (code !== 0) throw new Error(`The process has ended with ${String(code)}`);
  }

  /** Kills the process with `kill -9`, unless it has ended. */
  async kill(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill("SIGKILL");
    await this.#exited;
  }
}
