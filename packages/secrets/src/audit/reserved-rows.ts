import { bytesOf, type Transaction } from "./audit-connection.ts";
import type { ReservedRecordRow, ReservedReplacement } from "./audit-rows.ts";

const alive = "(expires IS NULL OR expires > ?)";
const set = `INSERT INTO reserved (key, value, expires) VALUES (?, ?, ?)
  ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires`;
const insert = `${set} WHERE expires <= ?`;

/** Returns the values of records of the reserved space, in the order of `keys`. */
export function reservedRead(transaction: Transaction, keys: readonly string[]): (Uint8Array | undefined)[] {
  return keys.map((key) => {
    const row = transaction.get(`SELECT value FROM reserved WHERE key = ? AND ${alive}`, Buffer.from(key), Date.now());
    return row === undefined ? undefined : bytesOf(row, "value");
  });
}

/** Writes records of the reserved space. A record whose expiry has passed is removed. */
export function reservedWrite(transaction: Transaction, records: readonly ReservedRecordRow[]): void {
  for (const { key: text, value, expires } of records) {
    const key = Buffer.from(text);
    if (expires !== null && expires <= Date.now()) transaction.run("DELETE FROM reserved WHERE key = ?", key);
    else transaction.run(set, key, value, expires);
  }
  transaction.run("DELETE FROM reserved WHERE expires <= ?", Date.now());
}

/** Removes records of the reserved space, and returns for each whether there was one. */
export function reservedDelete(transaction: Transaction, keys: readonly string[]): boolean[] {
  const sql = `DELETE FROM reserved WHERE key = ? RETURNING ${alive} AS alive`;
  return keys.map((key) => transaction.get(sql, Buffer.from(key), Date.now())?.["alive"] === 1);
}

/** Removes all records of the reserved space. */
export function reservedClear(transaction: Transaction): void {
  transaction.run("DELETE FROM reserved");
}

/** Makes replacements in the reserved space, and returns for each whether it was made. */
export function reservedReplace(transaction: Transaction, changes: readonly ReservedReplacement[]): boolean[] {
  return changes.map(({ key, expected, next, expires }) => {
    const bytes = Buffer.from(key);
    const now = Date.now();
    if (expected === undefined) return transaction.run(insert, bytes, next, expires ?? null, now) === 1;
    if (expires === undefined) {
      const sql = `UPDATE reserved SET value = ? WHERE key = ? AND value = ? AND ${alive}`;
      return transaction.run(sql, next, bytes, expected, now) === 1;
    }
    const sql = `UPDATE reserved SET value = ?, expires = ? WHERE key = ? AND value = ? AND ${alive}`;
    return transaction.run(sql, next, expires, bytes, expected, now) === 1;
  });
}

/** Returns records of the reserved space in the order of their keys. */
export function reservedScan(
  transaction: Transaction,
  after: string | undefined,
  limit: number,
): { readonly key: string; readonly value: Uint8Array }[] {
  const rows = transaction.all(
    `SELECT key, value FROM reserved WHERE key > ? AND ${alive} ORDER BY key LIMIT ?`,
    Buffer.from(after ?? ""),
    Date.now(),
    limit,
  );
  return rows.map((row) => ({ key: Buffer.from(bytesOf(row, "key")).toString(), value: bytesOf(row, "value") }));
}
