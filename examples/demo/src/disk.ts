import { existsSync, readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";

/** The SQLite file as an attacker sees it who has the disk and no key. */
export class Disk {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Returns the bytes that are stored under a key. */
  read(key: string): Buffer {
    return this.#query((database) => {
      const row = database.prepare("SELECT value FROM entries WHERE space = 0 AND key = ?").get(Buffer.from(key));
      const value = row?.["value"];
      if (!(value instanceof Uint8Array)) throw new Error("The record is not on disk");
      return Buffer.from(value);
    });
  }

  /** Replaces the bytes that are stored under a key. */
  write(key: string, value: Uint8Array): void {
    this.#query((database) => {
      database.prepare("UPDATE entries SET value = ? WHERE space = 0 AND key = ?").run(value, Buffer.from(key));
    });
  }

  /** Returns true if the files of the database contain none of these texts. */
  containsNone(texts: readonly string[]): boolean {
    const files = [this.#path, `${this.#path}-wal`]
      .filter((file) => existsSync(file))
      .map((file) => readFileSync(file));
    return !texts.some((text) => files.some((bytes) => bytes.includes(text)));
  }

  #query<Result>(use: (database: DatabaseSync) => Result): Result {
    const database = new DatabaseSync(this.#path, { timeout: 5_000 });
    try {
      return use(database);
    } finally {
      database.close();
    }
  }
}

/** Returns bytes as text: printable characters as they are, and all others as dots. */
export function printable(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString("latin1")
    .replace(/[^\x20-\x7e]/g, "·");
}
