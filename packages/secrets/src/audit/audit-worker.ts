import { parentPort, workerData } from "node:worker_threads";
import { AuditConnection } from "./audit-connection.ts";
import type { AuditFileOptions } from "./audit-file.ts";
import type { AuditAnswer, AuditRequest, SentRequest } from "./audit-rows.ts";
import { call, chainEntries, chains, chainsOf, entries, integrity, places, remove } from "./entry-queries.ts";
import { describeProblem, MissingNames } from "./file-problem.ts";
import { append, read, replace, scan } from "./record-rows.ts";
import {
  reservedClear,
  reservedDelete,
  reservedRead,
  reservedReplace,
  reservedScan,
  reservedWrite,
} from "./reserved-rows.ts";

// The worker thread of an audit file: the only code that reads and writes the file. It imports only modules of Node, so
// that it starts quickly.

const options: AuditFileOptions = workerData;
const connection = new AuditConnection(options);
const port = parentPort;

port?.on("message", ({ id, request, latestStart }: SentRequest) => {
  port.postMessage(answer({ id, request, latestStart }));
  if (request.method === "close") port.close();
});

function answer({ id, request, latestStart }: SentRequest): AuditAnswer {
  try {
    return { id, result: run(request, latestStart) };
  } catch (error) {
    if (error instanceof MissingNames) return { id, result: error.tags };
    const { kind, message, hint, cause } = describeProblem(options.path, error);
    return { id, problem: { kind, message, hint }, cause: cause instanceof Error ? cause.message : undefined };
  }
}

function run(request: AuditRequest, latestStart: bigint): unknown {
  switch (request.method) {
    case "check":
      return connection.write(latestStart, () => undefined);
    case "append":
      return connection.write(latestStart, (transaction) => append(transaction, request.batch));
    case "read":
      return connection.read((transaction) => read(transaction, request.keys));
    case "replace":
      return connection.write(latestStart, (transaction) => replace(transaction, request.changes));
    case "scan":
      return connection.read((transaction) => scan(transaction, request.cursor, request.limit));
    case "entries":
      return connection.read((transaction) => entries(transaction, request.query));
    case "call":
      return connection.read((transaction) => call(transaction, request.workspace, request.kind, request.number));
    case "places":
      return connection.read((transaction) => places(transaction, request.workspace, request.after, request.limit));
    case "chains":
      return connection.read((transaction) => chains(transaction, request.after, request.limit));
    case "chainsOf":
      return connection.read((transaction) => chainsOf(transaction, request.workspace, request.after, request.limit));
    case "chainEntries":
      return connection.read((transaction) => chainEntries(transaction, request.chain, request.after, request.limit));
    case "integrity":
      return connection.read((transaction) => integrity(transaction));
    case "remove":
      return connection.write(latestStart, (transaction) => remove(transaction, request.removal));
    case "reservedRead":
      return connection.read((transaction) => reservedRead(transaction, request.keys));
    case "reservedWrite":
      return connection.write(latestStart, (transaction) => reservedWrite(transaction, request.records));
    case "reservedDelete":
      return connection.write(latestStart, (transaction) => reservedDelete(transaction, request.keys));
    case "reservedClear":
      return connection.write(latestStart, (transaction) => reservedClear(transaction));
    case "reservedReplace":
      return connection.write(latestStart, (transaction) => reservedReplace(transaction, request.changes));
    case "reservedScan":
      return connection.read((transaction) => reservedScan(transaction, request.after, request.limit));
    case "close":
      return connection.close();
  }
}
