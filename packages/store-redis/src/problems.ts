import { rootOf } from "./server-error.ts";

/** What keeps a store from its server, in words. */
export interface Problem {
  readonly message: string;
  readonly hint: string;
}

const network = "Check the address, the route to it and the firewalls in between.";
const login = "Correct the user, the password or the ACL. Nothing is written until they are right.";
const trust =
  "Give the certificate of its authority as tls.ca, or by NODE_EXTRA_CA_CERTS. Leave the verification switched on.";

/** By the word that stands in the error: a code of the system or of TLS, or the first word of what the server replied. */
const problems: Readonly<Record<string, readonly [does: string, hint: string]>> = {
  ECONNREFUSED: ["refuses the connection", "Start the server, or correct its host and port: nothing listens there."],
  ENOTFOUND: ["has a host name that is not known", "Correct the host name, or the name service of this machine."],
  EAI_AGAIN: ["has a host name that cannot be resolved now", "Check the name service of this machine."],
  EHOSTUNREACH: ["cannot be reached over the network", network],
  ENETUNREACH: ["cannot be reached over the network", network],
  ETIMEDOUT: [
    "does not finish a connection in time",
    `${network} Where TLS is asked for (rediss:), check that the server speaks TLS at this port.`,
  ],
  ECONNRESET: [
    "closes connections before they are ready",
    "If the server wants TLS at this port, use rediss: or the option tls. Otherwise see the server's log.",
  ],
  ENOENT: ["has no socket at this path", "Start the server, or correct the path of its socket."],
  EACCES: ["has a socket that this process may not open", "Give the user of this process access to the socket."],
  ERR_SSL_WRONG_VERSION_NUMBER: ["does not speak TLS at this port", "Use the port for TLS, or redis: without TLS."],
  ERR_SSL_PACKET_LENGTH_TOO_LONG: ["does not speak TLS at this port", "Use the port for TLS, or redis: without TLS."],
  CERT_HAS_EXPIRED: ["has a certificate that has expired", "Have the certificate renewed."],
  ERR_TLS_CERT_ALTNAME_INVALID: [
    "has a certificate for another host name",
    "Connect by the name that the certificate has, or give that name as tls.servername.",
  ],
  DEPTH_ZERO_SELF_SIGNED_CERT: ["has a certificate that this process does not trust", trust],
  SELF_SIGNED_CERT_IN_CHAIN: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_GET_ISSUER_CERT: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: ["has a certificate that this process does not trust", trust],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: ["has a certificate that this process does not trust", trust],
  WRONGPASS: ["refuses the login", login],
  NOAUTH: ["refuses the login", `Give the client a user and a password: the server asks for them. ${login}`],
  NOPERM: ["refuses the login", login],
  DENIED: [
    "is in protected mode, and takes connections from its own machine alone",
    "Give it a password or an ACL, and connect with them.",
  ],
  OOM: ["has no memory left", "Raise maxmemory, or set an eviction policy."],
  LOADING: ["is still loading its data", "Wait for it, or connect to the node that is the primary."],
  READONLY: [
    "is a replica, which takes no writes",
    "Connect to the primary: by its address, by the sentinels, or by the nodes of the Cluster.",
  ],
  MASTERDOWN: ["is a replica that has lost its primary", "Connect to the node that is the primary."],
  NOREPLICAS: [
    "has fewer replicas than min-replicas-to-write asks for, and takes no writes",
    "Bring its replicas back, or connect to the node that is the primary by now.",
  ],
  UNBLOCKED: ["became a replica", "Connect to the node that is the primary."],
  CLUSTERDOWN: ["is a Cluster that does not serve all of its slots", "See CLUSTER INFO and CLUSTER NODES."],
  MOVED: [
    "is a node of a Cluster, and the key is served by another node",
    "Connect to the Cluster: give the store its nodes, as { nodes: [{ host, port }] }.",
  ],
  BUSY: ["is busy with a script", "Wait for the script, or end it by SCRIPT KILL."],
};

const notRedis: Problem = {
  message: "The server does not answer in the protocol of Redis",
  hint: "Check host and port. If the server wants TLS there, use rediss: or the option tls.",
};

const noDatabase: Problem = {
  message: "Redis has no database of this number",
  hint: "Correct the number at the end of the URL, or the option db; a server has 16 unless its configuration says otherwise.",
};

const words = /[A-Z][A-Z_]+/g;

/** What this error says of the server; `undefined` where it says nothing that would help. */
export function problemOf(error: unknown): Problem | undefined {
  const root = rootOf(error);
  if (!(root instanceof Error)) return undefined;
  if (/Unknown RESP type|^Protocol error, got/.test(root.message)) return notRedis;
  if (isWithoutDatabase(root)) return noDatabase;
  if (root.message.includes("max number of clients")) {
    return {
      message: "Redis has no room for another client",
      hint: "Close clients that are idle, or raise maxclients.",
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

/** Whether the server has no database of the number that the client selects. */
export function isWithoutDatabase(error: unknown): boolean {
  return error instanceof Error && /DB index is out of range|invalid DB index/i.test(error.message);
}
