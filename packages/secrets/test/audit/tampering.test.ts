import { randomInt } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Keyring } from "@keyward/core";
import { openAuditLog, verifyAudit } from "@keyward/secrets";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  beginRetention,
  daysAgo,
  otherWorkspace,
  recordAll,
  recordCalls,
  removeOld,
  secretChange,
  temporaryAudit,
  toolCall,
} from "./audit-files.ts";

/** How often each way of tampering is tried. A longer run sets another number. */
const rounds = Number(process.env["KEYWARD_AUDIT_TAMPERINGS"] ?? 3);

type Tampering = (database: DatabaseSync) => void;

/** Returns a random row of a query. */
function pick(database: DatabaseSync, sql: string): Record<string, unknown> {
  const rows = database.prepare(sql).all();
  const row = rows[randomInt(rows.length)];
  if (row === undefined) throw new Error(`No row of ${sql}`);
  return row;
}

const idOf = (row: Record<string, unknown>) => Number(row["id"]);

/** Flips one random bit of a BLOB. */
function flip(database: DatabaseSync, table: string, column: string): void {
  const row = pick(database, `SELECT id, ${column} AS value FROM ${table} WHERE ${column} IS NOT NULL`);
  if (!(row["value"] instanceof Uint8Array)) throw new Error(`${column} is no BLOB`);
  const bytes = Buffer.from(row["value"]);
  const index = randomInt(bytes.length);
  bytes.writeUInt8(bytes.readUInt8(index) ^ (1 << randomInt(8)), index);
  database.prepare(`UPDATE ${table} SET ${column} = ? WHERE id = ?`).run(bytes, idOf(row));
}

/** Swaps columns of two rows. */
function swap(database: DatabaseSync, table: string, columns: readonly string[], of = table): void {
  const rows = database.prepare(`SELECT * FROM ${of}`).all();
  const one = rows[randomInt(rows.length)];
  const others = rows.filter((row) => columns.some((column) => String(row[column]) !== String(one?.[column])));
  const other = others[randomInt(others.length)];
  if (one === undefined || other === undefined) throw new Error(`${table} has too few rows`);
  const set = (row: Record<string, unknown>, column: string, value: unknown) => {
    if (!(value instanceof Uint8Array || typeof value === "number" || typeof value === "string" || value === null)) {
      throw new Error("not a column");
    }
    database.prepare(`UPDATE ${table} SET ${column} = ? WHERE id = ?`).run(value, idOf(row));
  };
  for (const column of columns) {
    // A column may be unique, so a value that no row has is stored in between.
    set(one, column, between(one[column]));
    set(other, column, one[column]);
    set(one, column, other[column]);
  }
}

function between(value: unknown): unknown {
  if (typeof value === "number") return -1;
  if (typeof value === "string") return "between";
  return value === null ? null : Buffer.from("between");
}

const tamperings: Record<string, Tampering> = {
  ...Object.fromEntries(
    ["time", "kind", "workspace", "sequence", "chain"].map((column) => [
      `adds to the column ${column}`,
      (database) => {
        const row = pick(database, "SELECT id FROM entries");
        database.exec(`UPDATE entries SET ${column} = ${column} + ${randomInt(100, 1_000)} WHERE id = ${idOf(row)}`);
      },
    ]),
  ),
  ...Object.fromEntries(
    ["server", "token", "owner", "action"].flatMap((column): [string, Tampering][] => [
      [
        `clears the column ${column}`,
        (database) => {
          const row = pick(database, `SELECT id FROM entries WHERE ${column} IS NOT NULL`);
          database.exec(`UPDATE entries SET ${column} = NULL WHERE id = ${idOf(row)}`);
        },
      ],
      [
        `lets the column ${column} refer to another name`,
        (database) => {
          const row = pick(database, `SELECT id, ${column} AS name FROM entries`);
          const name = idOf(pick(database, `SELECT id FROM names WHERE id IS NOT ${row["name"]}`));
          database.exec(`UPDATE entries SET ${column} = ${name} WHERE id = ${idOf(row)}`);
        },
      ],
    ]),
  ),
  ...Object.fromEntries(
    ["status", "duration", "bytes", "change"].map((column) => [
      `sets the column ${column}`,
      (database) => {
        const row = pick(database, "SELECT id FROM entries");
        database.exec(`UPDATE entries SET ${column} = ${randomInt(100, 1_000)} WHERE id = ${idOf(row)}`);
      },
    ]),
  ),
  ...Object.fromEntries(
    ["time", "kind", "server", "token", "owner", "action", "status", "duration", "bytes", "change"].map((column) => [
      `changes the column ${column} of a call`,
      (database) => {
        const row = pick(database, "SELECT id FROM entries WHERE kind = 5");
        database.exec(`UPDATE entries SET ${column} = ${column} + 1 WHERE id = ${idOf(row)}`);
      },
    ]),
  ),
  "deletes a call": (database) => {
    database.exec(`DELETE FROM entries WHERE id = ${idOf(pick(database, "SELECT id FROM entries WHERE kind = 5"))}`);
  },
  "flips a bit of a hash": (database) => flip(database, "entries", "hash"),
  "flips a bit of an entry": (database) => flip(database, "entries", "entry"),
  "flips a bit of a head": (database) => flip(database, "chains", "head"),
  "flips a bit of the record of removed entries": (database) => flip(database, "chains", "removed"),
  "flips a bit of a name": (database) => flip(database, "names", "name"),
  "flips a bit of the tag of a name": (database) => flip(database, "names", "tag"),
  "flips a bit of the key of the names": (database) => flip(database, "workspaces", "lookup"),
  "deletes an entry": (database) => {
    database.exec(`DELETE FROM entries WHERE id = ${idOf(pick(database, "SELECT id FROM entries"))}`);
  },
  "deletes the end of a chain": (database) => {
    const { chain, sequence } = pick(database, "SELECT chain, sequence FROM entries");
    database.exec(`DELETE FROM entries WHERE chain = ${chain} AND sequence >= ${sequence}`);
  },
  "deletes the beginning of a chain": (database) => {
    const { chain, sequence } = pick(database, "SELECT chain, sequence FROM entries");
    database.exec(`DELETE FROM entries WHERE chain = ${chain} AND sequence <= ${sequence}`);
    database.exec(`UPDATE chains SET first = ${Number(sequence) + 1} WHERE id = ${chain}`);
  },
  "deletes the entries of a chain": (database) => {
    const { chain } = pick(database, "SELECT chain FROM entries");
    database.exec(`DELETE FROM entries WHERE chain = ${chain}`);
  },
  "deletes a chain with its entries": (database) => {
    const { id } = pick(database, "SELECT id FROM chains");
    database.exec(`DELETE FROM entries WHERE chain = ${id}; DELETE FROM chains WHERE id = ${id}`);
  },
  "deletes a chain, and gives its number to later chains": (database) => {
    const { id } = pick(database, "SELECT id FROM chains");
    database.exec(`DELETE FROM entries WHERE chain = ${id}; DELETE FROM chains WHERE id = ${id}`);
    for (const later of database.prepare(`SELECT id FROM chains WHERE id > ${id} ORDER BY id`).all()) {
      const to = idOf(later) - 1;
      database.exec(
        `UPDATE entries SET chain = ${to} WHERE chain = ${to + 1}; UPDATE chains SET id = ${to} WHERE id = ${to + 1}`,
      );
    }
  },
  "gives a chain a negative number": (database) => {
    const { id } = pick(database, "SELECT id FROM chains");
    database.exec(`DELETE FROM entries WHERE chain = ${id}; UPDATE chains SET id = -${id} WHERE id = ${id}`);
  },
  "hides a name from rotations": (database) => {
    const id = idOf(
      pick(database, "SELECT id FROM names WHERE id NOT IN (SELECT server FROM entries WHERE server > 0)"),
    );
    database.exec(`UPDATE names SET id = -${id} WHERE id = ${id}`);
    for (const column of ["token", "owner", "action"]) {
      database.exec(`UPDATE entries SET ${column} = -${id} WHERE ${column} = ${id}`);
    }
  },
  "deletes the number of chains": (database) => database.exec("DELETE FROM installation WHERE name = 'registry'"),
  "flips a bit of the number of chains or of the clock": (database) => flip(database, "installation", "record"),
  "deletes the row of a chain": (database) => {
    database.exec(`DELETE FROM chains WHERE id = ${idOf(pick(database, "SELECT DISTINCT chain AS id FROM entries"))}`);
  },
  "deletes a workspace": (database) => {
    database.exec(`DELETE FROM workspaces WHERE id = ${idOf(pick(database, "SELECT id FROM workspaces"))}`);
  },
  "deletes a name": (database) => {
    const used =
      "SELECT owner AS id FROM entries WHERE owner IS NOT NULL UNION SELECT server FROM entries WHERE server IS NOT NULL";
    database.exec(`DELETE FROM names WHERE id = ${idOf(pick(database, used))}`);
  },
  "repeats an entry at the end of its chain": (database) => {
    const row = pick(database, "SELECT id, chain FROM entries");
    const next = pick(database, `SELECT max(sequence) + 1 AS id FROM entries WHERE chain = ${row["chain"]}`);
    database.exec(
      `INSERT INTO entries SELECT NULL, time, kind, workspace, server, token, owner, action, status, duration, bytes, change,
        chain, ${idOf(next)}, hash, entry FROM entries WHERE id = ${idOf(row)}`,
    );
  },
  "moves a row to the end of the table": (database) => {
    const last = "SELECT max(id) FROM entries AS other WHERE other.chain = entries.chain";
    const row = pick(database, `SELECT id FROM entries WHERE id < (${last})`);
    database.exec(`UPDATE entries SET id = (SELECT max(id) + 1 FROM entries) WHERE id = ${idOf(row)}`);
  },
  "raises the number of the first entry": (database) => {
    const { id } = pick(database, "SELECT id FROM chains");
    database.exec(`UPDATE chains SET first = first + 1 WHERE id = ${id}`);
  },
  "forgets the record of removed entries": (database) => {
    database.exec("UPDATE chains SET removed = NULL WHERE removed IS NOT NULL");
  },
  "renames a chain": (database) => {
    const { id } = pick(database, "SELECT id FROM chains");
    database.exec(`UPDATE chains SET chain = 'aaaabbbbcccc' WHERE id = ${id}`);
  },
  "renames a workspace": (database) => {
    const { id } = pick(database, "SELECT id FROM workspaces");
    database.exec(`UPDATE workspaces SET workspace = 'aaaabbbbcccc' WHERE id = ${id}`);
  },
  "swaps two entries": (database) => swap(database, "entries", ["entry"]),
  "swaps two entries and their hashes": (database) => swap(database, "entries", ["entry", "hash"]),
  "swaps two entries and all that belongs to them": (database) => {
    const { chain } = pick(database, "SELECT chain FROM entries");
    const columns = [
      "time",
      "kind",
      "server",
      "token",
      "owner",
      "action",
      "status",
      "duration",
      "bytes",
      "change",
      "hash",
      "entry",
    ];
    swap(database, "entries", columns, `entries WHERE chain = ${chain}`);
  },
  "swaps the sequence numbers of two rows": (database) => {
    const { chain } = pick(database, "SELECT chain FROM entries");
    swap(database, "entries", ["sequence"], `entries WHERE chain = ${chain}`);
  },
  "swaps two names": (database) => swap(database, "names", ["name"]),
  "swaps two tags": (database) => swap(database, "names", ["tag"]),
  "swaps two names with their tags": (database) => swap(database, "names", ["name", "tag"]),
  "swaps two heads": (database) => swap(database, "chains", ["head"]),
  "swaps two chains": (database) => swap(database, "chains", ["chain"]),
  "swaps two workspaces": (database) => swap(database, "workspaces", ["workspace"]),
  "swaps the keys of the names of two workspaces": (database) => swap(database, "workspaces", ["lookup"]),
};

describe("verifyAudit", () => {
  const keys = Keyring.generate("k1");
  let folder = "";
  let original = "";

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "keyward-audit-"));
    const path = join(folder, "audit.db");
    for (const owners of [
      ["ana", "bob"],
      ["bob", "carl", "dora"],
    ]) {
      const audit = openAuditLog({ path, keys });
      if (owners[0] === "ana") {
        await beginRetention(audit);
        await daysAgo(31, () => recordAll(audit, [secretChange({ owner: "erna" })]));
        await daysAgo(31, () => recordCalls(audit, [toolCall({ owner: "erna" })]));
      }
      for (const owner of owners) {
        await recordAll(audit, [
          secretChange({ owner }),
          secretChange({ owner, server: "linear", workspace: otherWorkspace }),
          secretChange({ owner, action: "token.create", workspace: undefined, server: "none" }),
        ]);
        await recordCalls(audit, [
          toolCall({ owner }),
          toolCall({ owner, server: "linear", workspace: otherWorkspace }),
        ]);
      }
      await audit.close();
    }
    const audit = openAuditLog({ path, keys });
    expect(await removeOld(audit)).toBe(4);
    await audit.close();
    original = path;
  });

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("accepts the file before it is tampered with", async () => {
    const verification = await verifyAudit({ path: original, keys });
    expect(verification).toMatchObject({ ok: true, problems: [], openChains: [], chains: 6 });
    expect(verification.entries).toBeGreaterThan(30);
  });

  const cases = Object.entries(tamperings).flatMap(([name, tamper]) =>
    Array.from({ length: rounds }, (_, round) => ({ name, tamper, round })),
  );
  it.each(cases)("finds an attacker who $name ($round)", async ({ tamper }) => {
    const path = temporaryAudit();
    copyFileSync(original, path);
    const database = new DatabaseSync(path);
    tamper(database);
    database.close();
    const { ok, problems, problemCount } = await verifyAudit({ path, keys });
    expect({ ok, found: problemCount > 0 }).toEqual({ ok: false, found: true });
    for (const { problem } of problems) expect(problem).not.toMatch(/ana|bob|carl|dora|erna|github|linear/);
  });

  it("finds that all chains were removed, with everything that belongs to them", async () => {
    const emptied = temporaryAudit();
    copyFileSync(original, emptied);
    const database = new DatabaseSync(emptied);
    for (const table of ["entries", "chains", "names", "workspaces", "installation"])
      database.exec(`DELETE FROM ${table}`);
    database.close();
    const { ok, problems } = await verifyAudit({ path: emptied, keys });
    expect(ok).toBe(false);
    expect(problems).toMatchObject([{ problem: expect.stringContaining("all chains were removed") }]);
  });

  it("finds pages of the file that were overwritten", async () => {
    const path = temporaryAudit();
    const bytes = readFileSync(original);
    for (let page = 4_096; page < bytes.length; page += 4_096) bytes.fill(0xff, page, page + 16);
    writeFileSync(path, bytes);
    const outcome = await verifyAudit({ path, keys }).then(
      ({ ok }) => ok,
      (error: unknown) => error,
    );
    expect(outcome).toMatchObject({ code: "STORE_INVALID" });
  });

  it("refuses another keyring", async () => {
    await expect(verifyAudit({ path: original, keys: Keyring.generate("k1") })).rejects.toMatchObject({
      code: "OVERWRITE_REFUSED",
    });
  });
});
