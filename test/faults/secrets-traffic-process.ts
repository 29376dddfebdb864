// A process of the secrets service that works until it is told to end, or is killed. It writes the begin and the end of
// each operation to a file.
//   admin <store> <keyring> <file> <token> <seed> <name>: random changes of an admin.
//   reader <store> <keyring> <file> <files of admins> <seed> <name>: calls with the tokens that the admins have created.
// With a further argument, the store of the process has a flaw: "old" (it returns records that were replaced) or "dropped"
// (it acknowledges some changes that it has not made).
import { appendFileSync, readFileSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { StoredValue } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { type Caller, SecretsAdmin, serviceNamespace } from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import { openStore } from "./open-store.ts";
import { below, pick, randomFrom } from "./random.ts";
import { eventsOf, type ServiceEvent } from "./secrets-events.ts";
import { acceptingAudit, codeOf } from "./secrets-view.ts";

const [role = "", address = "", keyring = "", file = "", given = "", seed = "0", name = "", flaw = ""] =
  process.argv.slice(2);
const keys = fileKeys(keyring);
const random = randomFrom(Number(seed));
const store = openStore(address);
if (flaw !== "") plantFlaw();
const slugs = ["github", "jira"];
const names = ["ONE", "TWO"];
const tokensKept = 4;
let ended = false;
let number = 0;

process.on("message", () => {
  ended = true;
});

function plantFlaw(): void {
  const view = store.namespaced(serviceNamespace);
  const [getMany, replaceMany] = [view.getMany.bind(view), view.replaceMany.bind(view)];
  const former = new Map<string, StoredValue | undefined>();
  view.getMany = async (wanted) => {
    const found = await getMany(wanted);
    if (flaw !== "old" || random() > 0.2) return found;
    return found.map((value, index) => {
      const key = wanted[index] ?? "";
      const old = former.get(key) ?? value;
      former.set(key, value);
      return old;
    });
  };
  view.replaceMany = async (changes) =>
    flaw === "dropped" && random() < 0.1 ? changes.map(() => true) : await replaceMany(changes);
  Reflect.set(store, "namespaced", () => view);
}

/** The time of a clock that all processes of the machine share, in nanoseconds. */
function now(): number {
  return Number(process.hrtime.bigint());
}

/** Makes an operation, and writes its begin and its end to the file. */
async function recorded<Result>(
  begun: ServiceEvent,
  make: () => Promise<Result>,
  finish: (result: Result) => Partial<ServiceEvent> = () => ({}),
): Promise<Result | undefined> {
  const id = ++number;
  const write = (at: "begin" | "end", event: unknown) =>
    appendFileSync(file, `${JSON.stringify({ at, number: id, event })}\n`);
  const event = { ...begun, began: now() };
  write("begin", event);
  let result: Result | undefined;
  let end: object;
  try {
    result = await make();
    end = finish(result);
  } catch (error) {
    end = { code: codeOf(error) };
  }
  write("end", { ...event, ended: now(), ...end });
  return result;
}

async function changeOften(): Promise<void> {
  const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit, replica: true });
  const caller = await admin.authenticate(given);
  const tokens: { readonly id: string; readonly token: string }[] = [];
  process.send?.("ready");
  while (!ended) {
    await changeOnce(admin, caller, tokens);
    // Messages arrive between turns of the event loop.
    await nextTurn();
  }
  await admin.close();
}

async function changeOnce(
  admin: SecretsAdmin,
  caller: Caller,
  tokens: { readonly id: string; readonly token: string }[],
): Promise<void> {
  const began = 0;
  const slug = pick(random, slugs);
  const secret = pick(random, names);
  const url = `https://${pick(random, ["one", "two"])}.example.com/${name}/${number}`;
  const chance = random();
  if (chance < 0.5) {
    const value = `value ${number} of ${name}`;
    await recorded({ kind: "set", slug, name: secret, value, began }, () =>
      admin.setSecret(caller, slug, { name: secret, value }),
    );
  } else if (chance < 0.6) {
    await recorded({ kind: "delete secret", slug, name: secret, began }, () =>
      admin.deleteSecret(caller, slug, secret),
    );
  } else if (chance < 0.63) {
    await recorded({ kind: "delete all secrets", slug, began }, () => admin.deleteAllSecrets(caller, slug));
  } else if (chance < 0.7) {
    await recorded({ kind: "change URL", slug, url, began }, () => admin.updateServer(caller, slug, { url }));
  } else if (chance < 0.75) {
    await recorded({ kind: "delete server", slug, began }, () => admin.deleteServer(caller, slug));
  } else if (chance < 0.9) {
    await recorded({ kind: "create server", slug, url, began }, () => admin.createServer(caller, { slug, url }));
  } else if (tokens.length < tokensKept) {
    const create = () => admin.createToken(caller, { owner: name, role: "member" });
    const issued = await recorded({ kind: "create token", token: "", began }, create, ({ token }) => ({ token }));
    if (issued !== undefined) tokens.push({ id: issued.info.id, token: issued.token });
  } else {
    const [oldest] = tokens.splice(below(random, tokens.length), 1);
    if (oldest === undefined) return;
    await recorded({ kind: "revoke token", token: oldest.token, began }, () => admin.revokeToken(caller, oldest.id));
  }
}

/** Returns the tokens that each admin has created last, some of which are revoked. They are in the files of the admins. */
function createdTokens(): readonly string[] {
  return given.split(",").flatMap((path) => {
    const events = eventsOf(readFileSync(path, "utf8"));
    return events
      .flatMap((event) => (event.kind === "create token" && event.token !== "" ? event.token : []))
      .slice(-5);
  });
}

async function callOften(): Promise<void> {
  const reader = new SecretsReader({ store, keys, replica: true });
  let tokens: readonly string[] = [];
  process.send?.("ready");
  for (let calls = 0; !ended; calls++) {
    if (calls % 200 === 0) tokens = createdTokens();
    await nextTurn();
    if (tokens.length === 0) {
      calls = -1;
      continue;
    }
    const [token, slug] = [pick(random, tokens), pick(random, slugs)];
    await recorded(
      { kind: "call", token, slug, began: 0 },
      () => reader.forCall(token, slug),
      ({ server, secrets }) => ({
        url: server.url,
        values: Object.fromEntries(secrets.map((each) => [each.name, each.value.reveal()])),
      }),
    );
  }
  await reader.close();
}

await (role === "admin" ? changeOften() : callOften());
await store.disconnect();
process.disconnect();
