import { NetworkError } from "../network/index.ts";
import { GatewayProblem } from "../problem.ts";

/** Returns the problem for a request that could not be sent to the server, or whose answer broke off. */
export function problemOfDialing(error: unknown): GatewayProblem {
  if (error instanceof GatewayProblem) return error;
  switch (codeOf(error)) {
    case "ADDRESS_REFUSED":
      return new GatewayProblem("ADDRESS_REFUSED", "The address of the server is not one that the gateway may call", {
        hint: "An operator allows a private address with `keyward gateway start --allow-address`, but never one of a metadata service or a link-local one. An admin of the workspace checks the URL of the server.",
        operatorDetail: detailOf(error),
        cause: error,
      });
    case "PLAINTEXT_REFUSED":
      return new GatewayProblem(
        "ADDRESS_REFUSED",
        "The URL of the server begins with http://, and its address is not allowed",
        {
          hint: "An admin of the workspace sets a URL that begins with https://, or an operator allows the address with `keyward gateway start --allow-address`.",
          operatorDetail: detailOf(error),
          cause: error,
        },
      );
    case "UND_ERR_CONNECT_TIMEOUT":
    case "CONNECT_TIMEOUT":
    case "UND_ERR_HEADERS_TIMEOUT":
    case "UND_ERR_BODY_TIMEOUT":
      return serverTimeout(error);
    case "UND_ERR_INVALID_ARG":
      return new GatewayProblem(
        "REQUEST_MALFORMED",
        "The request cannot be forwarded: a header or the path is not valid",
        {
          hint: "Send the request without unusual headers and characters.",
          operatorDetail: detailOf(error),
          cause: error,
        },
      );
    default:
      return new GatewayProblem("SERVER_UNAVAILABLE", "The server could not be reached, or broke off its answer", {
        hint: "Repeat the call later. If the call changes something, find out first whether the server has made the change.",
        operatorDetail: detailOf(error),
        cause: error,
      });
  }
}

/** Returns the problem for a server that has sent nothing for too long. */
export function serverTimeout(cause?: unknown): GatewayProblem {
  return new GatewayProblem("SERVER_TIMEOUT", "The server did not answer in time", {
    hint: "Repeat the call later. If the call changes something, find out first whether the server has made the change.",
    operatorDetail: detailOf(cause),
    cause,
  });
}

function codeOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}

/** Returns the host and address that could not be reached, and why, for the operator. */
function detailOf(error: unknown): string | undefined {
  if (error instanceof NetworkError) return `${error.code}: ${error.detail}`;
  const code = codeOf(error);
  return typeof code === "string" ? code : undefined;
}
