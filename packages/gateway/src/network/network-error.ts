/** The reason why the gateway could not connect to a server. */
export type NetworkErrorCode =
  /** The host has an address that the gateway may not dial. */
  | "ADDRESS_REFUSED"
  /** The URL has the scheme `http`, and no exception allows the address. */
  | "PLAINTEXT_REFUSED"
  /** The name of the host has no address, or the resolver did not answer. */
  | "NAME_UNRESOLVED"
  /** The host refused the connection, closed it while it was made, or cannot be reached. */
  | "CONNECT_FAILED"
  /** The host did not accept the connection in time. */
  | "CONNECT_TIMEOUT"
  /** The host has no valid certificate for its name, or does not speak TLS. */
  | "TLS_FAILED";

/**
 * Thrown when the gateway cannot connect to a server. A caller may read the message: it contains no host and no address. The
 * details for the operator are in {@link NetworkError.detail} and in the cause.
 */
export class NetworkError extends Error {
  override readonly name = "NetworkError";
  /** The code of the reason. */
  readonly code: NetworkErrorCode;
  /** The host and its addresses, for the operator. Callers must not read this, because it reveals answers of a private DNS. */
  readonly detail: string;

  constructor(code: NetworkErrorCode, message: string, { detail, cause }: { detail: string; cause?: unknown }) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.detail = detail;
  }
}
