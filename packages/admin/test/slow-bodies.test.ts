import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type AdminServerOptions, startAdminServer } from "@keyward/admin";
import { expect, it, onTestFinished } from "vitest";
import { type Installation, install, serviceWith } from "./installation.ts";

interface Started extends Installation {
  readonly url: string;
  /** Returns how many times the service has accepted a token. */
  accepted(): number;
}

async function start(options: Partial<AdminServerOptions> = {}): Promise<Started> {
  const installation = await install();
  const { service } = installation;
  let accepted = 0;
  const counting = serviceWith(service, "authenticate", async (token, from) => {
    const caller = await service.authenticate(token, from);
    accepted++;
    return caller;
  });
  const server = await startAdminServer({ admin: counting, port: 0, ...options });
  onTestFinished(() => server.close());
  return { ...installation, url: server.url, accepted: () => accepted };
}

const body = JSON.stringify({ owner: "ana", role: "admin" });

/** Sends the headers of a request that creates a token, and no body yet. */
function begin(url: string, token: string): Socket {
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  socket.on("error", () => {});
  onTestFinished(() => {
    socket.destroy();
  });
  socket.write(
    `POST /api/v1/admin/tokens HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  return socket;
}

/** Returns the status of the answer. */
async function answerOf(socket: Socket): Promise<string | undefined> {
  const pieces: Buffer[] = [];
  socket.on("data", (piece) => pieces.push(piece));
  await once(socket, "close");
  return /^HTTP\/1\.1 (\d+) /.exec(Buffer.concat(pieces).toString())?.[1];
}

async function whoAmI(url: string, token: string): Promise<number> {
  return (await fetch(`${url}/api/v1/admin/whoami`, { headers: { authorization: `Bearer ${token}` } })).status;
}

it("a request is refused if its token was revoked before its body arrived", async () => {
  const { url, service, admin, tokenOf, accepted, audit } = await start();
  const stolen = await tokenOf("admin", "eve");
  const socket = begin(url, stolen.token);
  await expect.poll(accepted).toBe(1);
  await service.revokeTokensOf(await service.authenticate(admin.token), "eve");
  const before = audit.entries.length;
  socket.write(body);
  expect(await answerOf(socket)).toBe("401");
  expect(audit.entries).toHaveLength(before);
});

it("other requests are answered while more requests than concurrentRequests wait for their bodies", async () => {
  const { url, admin, operator, accepted } = await start({ limits: { concurrentRequests: 3 } });
  const sockets: Socket[] = [];
  for (let count = 1; count <= 6; count++) {
    sockets.push(begin(url, admin.token));
    await expect.poll(accepted).toBe(count);
  }
  expect(await whoAmI(url, operator.token)).toBe(200);
  expect(await whoAmI(url, admin.token)).toBe(200);
  const answers = sockets.map(answerOf);
  for (const socket of sockets) socket.write(body);
  // As many as concurrentRequests allows.
  expect((await Promise.all(answers)).every((status) => status === "201" || status === "503")).toBe(true);
});

it.each([
  ["one token", { concurrentRequestsOfToken: 2 }, 200],
  ["one workspace", { concurrentRequestsOfWorkspace: 2 }, 429],
])(
  "the API refuses requests beyond the limit of requests in progress with %s",
  async (_, limits, statusOfColleague) => {
    const { url, admin, operator, tokenOf, accepted } = await start({ limits });
    const colleague = await tokenOf("admin", "colleague");
    const sockets = [begin(url, admin.token), begin(url, admin.token)];
    await expect.poll(accepted).toBe(2);
    const refused = begin(url, admin.token);
    expect(await answerOf(refused)).toBe("429");
    expect(await whoAmI(url, colleague.token)).toBe(statusOfColleague);
    expect(await whoAmI(url, operator.token)).toBe(200);
    const answers = sockets.map(answerOf);
    for (const socket of sockets) socket.write(body);
    expect(await Promise.all(answers)).toEqual(["201", "201"]);
    expect(await whoAmI(url, admin.token)).toBe(200);
  },
);
