import { once } from "node:events";
import { createServer } from "node:net";
import type { Dispatcher } from "undici";
import { expect, it, onTestFinished } from "vitest";
import { type DispatchLimits, guardedDispatcher, NetworkError, parseAllowedAddress } from "../../src/network/index.ts";
import { makeCertificate, portOf, startUpstream } from "./upstream.ts";

/** Makes a dispatcher that is destroyed when the test has finished. */
function dispatcherFor(origin: string, exceptions: readonly string[] = [], limits: DispatchLimits = {}): Dispatcher {
  const dispatcher = guardedDispatcher({ origin, allowed: exceptions.map(parseAllowedAddress), ...limits });
  onTestFinished(() => dispatcher.destroy());
  return dispatcher;
}

async function get(dispatcher: Dispatcher, headers: Record<string, string> = {}): Promise<string> {
  const { body } = await dispatcher.request({ origin: "", path: "/", method: "GET", headers });
  return await body.text();
}

/** Returns the error of a call. */
async function errorOf(call: Promise<unknown>): Promise<NetworkError> {
  const result = await call.then(
    (value) => `answered ${value}`,
    (error: unknown) => error,
  );
  if (result instanceof NetworkError) return result;
  throw new TypeError(`The call did not end with a NetworkError: ${result}`);
}

/** Resolves names from a table, and counts how often. */
function resolver(answers: Record<string, readonly (readonly string[])[]>) {
  const asked: string[] = [];
  return {
    asked,
    resolve: async (host: string) => {
      const answer = answers[host]?.[asked.filter((earlier) => earlier === host).length];
      asked.push(host);
      return answer ?? [];
    },
  };
}

it("calls a server at an address that an exception allows", async () => {
  const { port } = await startUpstream();
  expect(await get(dispatcherFor(`http://127.0.0.1:${port}`, [`127.0.0.1:${port}`]))).toBe("127.0.0.1");
  // This name is in /etc/hosts.
  const both = [`127.0.0.0/8:${port}`, `[::1]:${port}`];
  expect(await get(dispatcherFor(`http://localhost:${port}`, both))).toBe("127.0.0.1");
});

it("calls a server at the loopback address of IPv6", async () => {
  const upstream = await startUpstream({ address: "::1" });
  const origin = `http://[::1]:${upstream.port}`;
  expect(await get(dispatcherFor(origin, [`[::1]:${upstream.port}`]))).toBe("::1");
  const { code } = await errorOf(get(dispatcherFor(origin, [`127.0.0.1:${upstream.port}`])));
  expect(code).toBe("ADDRESS_REFUSED");
  expect(upstream.connections).toBe(1);
});

it.each([
  "127.0.0.1",
  "127.1",
  "127.0.1",
  "2130706433",
  "0x7f000001",
  "0x7f.1",
  "0177.0.0.1",
  "017700000001",
  "127.0.0.1.",
  "%31%32%37.0.0.1",
  "①②⑦.⓪.⓪.①",
  "0",
  "0.0.0.0",
  "localhost",
  "LOCALHOST",
  "[::1]",
  "[0:0:0:0:0:0:0:1]",
  "[::]",
  "[::127.0.0.1]",
  "[::ffff:127.0.0.1]",
  "[::ffff:7f00:1]",
  "[64:ff9b::127.0.0.1]",
  "[2002:7f00:1::]",
  "[2001:0:1::80ff:fffe]",
])("opens no connection to a loopback server that a URL names %s", async (host) => {
  const upstream = await startUpstream({ address: "::" });
  for (const scheme of ["http", "https"]) {
    const { code, message } = await errorOf(get(dispatcherFor(`${scheme}://${host}:${upstream.port}`)));
    expect(code).toBe("ADDRESS_REFUSED");
    expect(message).toBe("The server has an address that the gateway may not call");
  }
  expect(upstream.connections).toBe(0);
});

it("opens no connection to a loopback server that a URL names localhost.", async () => {
  const upstream = await startUpstream({ address: "::" });
  // Some resolvers do not know the name with the dot at its end.
  const { code } = await errorOf(get(dispatcherFor(`https://localhost.:${upstream.port}`)));
  expect(["ADDRESS_REFUSED", "NAME_UNRESOLVED"]).toContain(code);
  expect(upstream.connections).toBe(0);
});

it.each(["[fe80::1%25lo]", "[::1%lo]", "127.0.0.1.5", "256.256.256.256"])("refuses %s as a host", (host) => {
  expect(() => guardedDispatcher({ origin: `http://${host}`, allowed: [] })).toThrow(/Invalid URL/);
});

it.each(["10.0.0.5", "169.254.169.254", "fd00::5", "::ffff:10.0.0.5", "not-an-address", "127.0.0.1%lo"])(
  "refuses a name that has the address %s, and tells it to the operator only",
  async (address) => {
    const { resolve } = resolver({ "mcp.internal": [["8.8.8.8", address]] });
    const error = await errorOf(get(dispatcherFor("https://mcp.internal", [], { resolve })));
    expect(error.code).toBe("ADDRESS_REFUSED");
    expect(error.message).not.toMatch(/10\.0|169|fd00|8\.8|internal|lo$/);
    expect(error.detail).toBe(
      `mcp.internal has the addresses 8.8.8.8, ${address}; not allowed at port 443: ${address}`,
    );
  },
);

it("refuses a metadata address although an exception covers it", async () => {
  const all = ["0.0.0.0/0:80", "[::/0]:80"];
  for (const host of ["169.254.169.254", "0xa9fea9fe", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "168.63.129.16"]) {
    expect((await errorOf(get(dispatcherFor(`http://${host}`, all)))).code).toBe("ADDRESS_REFUSED");
  }
});

it("refuses a name if only one of its addresses is not allowed, and dials none", async () => {
  const upstream = await startUpstream();
  const { resolve } = resolver({ "mcp.test": [["127.0.0.1", "10.0.0.1"]] });
  const dispatcher = dispatcherFor(`http://mcp.test:${upstream.port}`, [`127.0.0.1:${upstream.port}`], { resolve });
  expect((await errorOf(get(dispatcher))).code).toBe("ADDRESS_REFUSED");
  expect(upstream.connections).toBe(0);
});

it("refuses plain HTTP to a public server, and the error says that https is needed", async () => {
  const { code } = await errorOf(get(dispatcherFor("http://8.8.8.8")));
  expect(code).toBe("PLAINTEXT_REFUSED");
});

it("dials the address that was checked, although the name has another address the next time", async () => {
  const allowed = await startUpstream();
  const other = await startUpstream({ address: "127.0.0.2", port: allowed.port });
  const { asked, resolve } = resolver({ "rebind.test": [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]] });
  const origin = `http://rebind.test:${allowed.port}`;
  const exceptions = [`127.0.0.1:${allowed.port}`];
  expect(await get(dispatcherFor(origin, exceptions, { resolve }))).toBe("127.0.0.1");
  expect(asked).toEqual(["rebind.test"]);
  // Another connection is checked again.
  const { code } = await errorOf(get(dispatcherFor(origin, exceptions, { resolve })));
  expect(code).toBe("ADDRESS_REFUSED");
  expect(asked).toEqual(["rebind.test", "rebind.test"]);
  expect([allowed.connections, other.connections]).toEqual([1, 0]);
  expect(allowed.hosts).toEqual([`rebind.test:${allowed.port}`]);
});

it("refuses a connection that another address answers", async () => {
  const upstream = await startUpstream();
  // Linux connects 0.0.0.0 to 127.0.0.1.
  const error = await errorOf(get(dispatcherFor(`http://0.0.0.0:${upstream.port}`, [`0.0.0.0:${upstream.port}`])));
  expect(error.code).toBe("ADDRESS_REFUSED");
  expect(error.message).toBe("The server answers from another address");
  expect(error.detail).toBe("0.0.0.0 was dialled at 0.0.0.0, and 127.0.0.1 answered");
  expect(upstream.hosts).toEqual([]);
});

it("dials the next address if one refuses the connection", async () => {
  const upstream = await startUpstream({ address: "127.0.0.3" });
  const { resolve } = resolver({ "mcp.test": [["127.0.0.2", "127.0.0.3"]] });
  const origin = `http://mcp.test:${upstream.port}`;
  expect(await get(dispatcherFor(origin, [`127.0.0.0/8:${upstream.port}`], { resolve }))).toBe("127.0.0.3");
});

it("the error code tells why a server cannot be reached", async () => {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const port = portOf(closed);
  closed.close();
  const failed = await errorOf(get(dispatcherFor(`http://127.0.0.1:${port}`, [`127.0.0.1:${port}`])));
  expect([failed.code, failed.message]).toEqual(["CONNECT_FAILED", "The connection to the server failed"]);
  expect(failed.detail).toBe("127.0.0.1 at 127.0.0.1: ECONNREFUSED");

  const unresolved = await errorOf(get(dispatcherFor("https://keyward.invalid")));
  expect([unresolved.code, unresolved.message]).toEqual(["NAME_UNRESOLVED", "The name of the server has no address"]);
  expect(unresolved.detail).toBe("keyward.invalid");

  const { resolve } = resolver({ "empty.test": [[]] });
  expect((await errorOf(get(dispatcherFor("https://empty.test", [], { resolve })))).code).toBe("NAME_UNRESOLVED");
});

it("gives up an attempt to connect after connectTimeoutMs, and leaves no connection open", async () => {
  // This server never answers the handshake of TLS.
  const silent = createServer().listen(0, "127.0.0.1");
  await once(silent, "listening");
  onTestFinished(() => {
    silent.close();
  });
  const port = portOf(silent);
  const closed = once(silent, "connection").then(async ([socket]) => {
    socket.resume();
    await once(socket, "close");
  });
  const limits = { connectTimeoutMs: 100 };
  const { code } = await errorOf(get(dispatcherFor(`https://127.0.0.1:${port}`, [`127.0.0.1:${port}`], limits)));
  expect(code).toBe("CONNECT_TIMEOUT");
  await closed;
});

it("includes the time of the resolver in connectTimeoutMs", async () => {
  const resolve = () => new Promise<readonly string[]>(() => {});
  const error = await errorOf(get(dispatcherFor("https://slow.test", [], { resolve, connectTimeoutMs: 50 })));
  expect(error.code).toBe("CONNECT_TIMEOUT");
  expect(error.message).toBe("The server did not accept the connection in time");
});

it("checks the certificate for the name of the host, whatever the header `host` says", async () => {
  const certificate = makeCertificate("DNS:mcp.test,IP:127.0.0.1");
  const upstream = await startUpstream({ certificate });
  const exceptions = [`127.0.0.1:${upstream.port}`];
  const limits = {
    certificateAuthorities: certificate.cert,
    resolve: async () => ["127.0.0.1"],
  };
  const call = (host: string, headers = {}) =>
    get(dispatcherFor(`https://${host}:${upstream.port}`, exceptions, limits), headers);

  expect(await call("mcp.test")).toBe("127.0.0.1");
  expect(await call("mcp.test.")).toBe("127.0.0.1");
  expect(await call("mcp.test", { host: "other.test" })).toBe("127.0.0.1");
  expect(await call("127.0.0.1")).toBe("127.0.0.1");
  expect(upstream.serverNames).toEqual(["mcp.test", "mcp.test", "mcp.test", false]);

  const other = await errorOf(call("other.test", { host: "mcp.test" }));
  expect([other.code, other.message]).toEqual([
    "TLS_FAILED",
    "The server offers no encrypted connection that the gateway trusts",
  ]);
  expect(other.detail).toBe("other.test at 127.0.0.1: ERR_TLS_CERT_ALTNAME_INVALID");
});

it("refuses a certificate of an unknown authority, and a server without TLS", async () => {
  const encrypted = await startUpstream({ certificate: makeCertificate("IP:127.0.0.1") });
  const plain = await startUpstream();
  for (const { port } of [encrypted, plain]) {
    const error = await errorOf(get(dispatcherFor(`https://127.0.0.1:${port}`, [`127.0.0.1:${port}`])));
    expect(error.code).toBe("TLS_FAILED");
  }
  expect(encrypted.hosts).toEqual([]);
});
