import { rootOf } from "./server-error.ts";

/** Message and hint for a known reason why a store cannot use its server. */
export interface Problem {
  readonly message: string;
  readonly hint: string;
}

const network = "Check the address of the server, the route to the server and the firewalls in between.";
const login =
  "Correct the user or the password of the store, or the ACL of the server. Until then every call rejects and nothing is written.";
const trust =
  "Pass the certificate of the authority that signed the server's certificate as `tls.ca` or in `NODE_EXTRA_CA_CERTS`. Do " +
  "not switch off the verification, because an attacker could then pretend to be the server.";
const noTls =
  "Connect to the port at which the server accepts TLS. If the server has no such port, use a URL with `redis:`, without TLS.";

/** Known problems, each under a word that its error contains: a code of the system or of TLS, or a word of the reply. */
const problems: Readonly<Record<string, readonly [does: string, hint: string]>> = {
  ECONNREFUSED: ["refuses the connection", "Start the server, or correct its host and port."],
  ENOTFOUND: [
    "has an unknown host name",
    "Correct the host name. If it is right, check the name service of this machine.",
  ],
  EAI_AGAIN: ["has a host name that cannot be resolved now", "Check the name service of this machine."],
  EHOSTUNREACH: ["cannot be reached over the network", network],
  ENETUNREACH: ["cannot be reached over the network", network],
  ETIMEDOUT: [
    "does not complete a connection in time",
    `${network} If the store uses TLS (a URL with \`rediss:\`), check that the server accepts TLS at this port.`,
  ],
  ECONNRESET: [
    "closes connections before they are ready",
    "If the server requires TLS at this port, use a URL with `rediss:` or the option `tls`. Otherwise read the server's log.",
  ],
  ENOENT: ["has no socket at this path", "Start the server, or correct the path of its socket."],
  EACCES: [
    "has a socket that this process is not allowed to open",
    "Give the user of this process access to the socket.",
  ],
  ERR_SSL_WRONG_VERSION_NUMBER: ["does not use TLS at this port", noTls],
  ERR_SSL_PACKET_LENGTH_TOO_LONG: ["does not use TLS at this port", noTls],
  CERT_HAS_EXPIRED: ["has an expired certificate", "Renew the certificate of the server."],
  ERR_TLS_CERT_ALTNAME_INVALID: [
    "has a certificate for another host name",
    "Connect to the host name in the certificate, or pass that host name as `tls.servername`.",
  ],
  DEPTH_ZERO_SELF_SIGNED_CERT: ["has a certificate that this process does not trust", trust],
  SELF_SIGNED_CERT_IN_CHAIN: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_GET_ISSUER_CERT: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: ["has a certificate that this process does not trust", trust],
  WRONGPASS: ["refuses the login", login],
  NOAUTH: ["refuses the login", `Pass a user and a password, because the server requires a login. ${login}`],
  NOPERM: ["refuses the login", login],
  DENIED: [
    "is in protected mode, and only accepts connections from its own machine",
    "Set a password or an ACL on the server, and pass the user and the password to the store.",
  ],
  OOM: [
    "has no memory left",
    "Raise `maxmemory`, or remove data that is no longer needed. Do not set an eviction policy, because Redis would then delete records.",
  ],
  LOADING: [
    "is still loading its data",
    "Wait until the server has loaded its data. If another node has become the primary, connect to that node.",
  ],
  READONLY: [
    "is a replica, which accepts no writes",
    "Connect to the primary. For this, pass the address of the primary, the sentinels, or the nodes of the Cluster to the store.",
  ],
  MASTERDOWN: ["is a replica that has lost its primary", "Connect to the node that is the primary."],
  NOREPLICAS: [
    "has fewer replicas than min-replicas-to-write requires, and accepts no writes",
    "Restart the replicas. If another node has become the primary, connect to that node.",
  ],
  UNBLOCKED: ["has become a replica", "Connect to the node that is the primary."],
  CLUSTERDOWN: [
    "is a Cluster that does not serve all of its slots",
    "Restart the missing nodes. The command `CLUSTER NODES` lists all nodes and their state.",
  ],
  MOVED: [
    "is a node of a Cluster, and the key is served by another node",
    "To connect to the Cluster, pass `{ nodes: [{ host, port }] }` to the store.",
  ],
  BUSY: ["is busy with a script", "Wait until the script ends, or end the script with `SCRIPT KILL`."],
};

const notRedis: Problem = {
  message: "The server does not use the protocol of Redis",
  hint: "Check the host and the port. If the server requires TLS at this port, use a URL with `rediss:` or the option `tls`.",
};

const noDatabase: Problem = {
  message: "Redis has no database with this number",
  hint: "Correct the number at the end of the URL, or the option `db`. By default a server has the databases 0 to 15.",
};

const words = /[A-Z][A-Z_]+/g;

/**
 * Returns the message and hint for a known reason why a server cannot be used. Returns `undefined` if the error reveals
 * no known reason.
 *
 * @param error the error with which a call of the server failed.
 */
export function problemOf(error: unknown): Problem | undefined {
  const root = rootOf(error);
  if (!(root instanceof Error)) return undefined;
  if (/Unknown RESP type|^Protocol error, got/.test(root.message)) return notRedis;
  if (isWithoutDatabase(root)) return noDatabase;
  if (root.message.includes("max number of clients")) {
    return {
      message: "Redis has reached its maximum number of clients",
      hint: "Close idle clients, or raise the setting `maxclients` of the server.",
    };
  }
  const code = "code" in root && typeof root.code === "string" ? [root.code] : [];
  for (const word of [...code, ...(root.message.match(words) ?? [])]) {
    const found = Object.hasOwn(problems, word) ? problems[word] : undefined;
    if (found === undefined) continue;
    const [does, hint] = found;
    return { message: `${/sentinel/i.test(root.message) ? "A sentinel of Redis" : "Redis"} ${does}`, hint };
  }
  return undefined;
}

/** Returns whether the error means that the server has no database with the number that the client selects. */
export function isWithoutDatabase(error: unknown): boolean {
  return error instanceof Error && /DB index is out of range|invalid DB index/i.test(error.message);
}
