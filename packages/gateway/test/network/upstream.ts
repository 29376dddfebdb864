import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TLSSocket } from "node:tls";
import { onTestFinished } from "vitest";

/** A server on loopback, and what it saw. */
export interface Upstream {
  readonly port: number;
  /** The number of connections that were opened. */
  connections: number;
  /** The `host` header of each request. */
  readonly hosts: (string | undefined)[];
  /** The server name in the TLS handshake of each request. */
  readonly serverNames: (string | false | null)[];
}

export interface Certificate {
  readonly key: string;
  readonly cert: string;
}

/** Starts a server on loopback. It ends with the test. */
export async function startUpstream(
  options: { address?: string; port?: number; certificate?: Certificate; answer?: RequestListener } = {},
): Promise<Upstream> {
  const { address = "127.0.0.1", certificate, answer = (_, response) => response.end(address) } = options;
  const hosts: Upstream["hosts"] = [];
  const serverNames: Upstream["serverNames"] = [];
  const listener: RequestListener = (request, response) => {
    hosts.push(request.headers.host);
    if (request.socket instanceof TLSSocket) serverNames.push(request.socket.servername);
    answer(request, response);
  };
  const server = certificate === undefined ? createServer(listener) : createTlsServer(certificate, listener);
  server.listen(options.port ?? 0, address);
  await once(server, "listening");
  const upstream: Upstream = { port: portOf(server), connections: 0, hosts, serverNames };
  server.on("connection", () => {
    upstream.connections += 1;
  });
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return upstream;
}

export function portOf(server: Server): number {
  const address: AddressInfo | string | null = server.address();
  if (address === null || typeof address === "string") throw new TypeError("The server has no port");
  return address.port;
}

/** Makes a certificate that signs itself, for names such as `DNS:mcp.test,IP:127.0.0.1`. */
export function makeCertificate(names: string): Certificate {
  const folder = mkdtempSync(join(tmpdir(), "keyward-certificate-"));
  try {
    const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
    const subject = ["-subj", "/CN=keyward test", "-addext", `subjectAltName=${names}`, "-days", "2"];
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    execFileSync("openssl", ["req", "-x509", ...curve, ...subject, "-keyout", key, "-out", cert], { stdio: "pipe" });
    return { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
