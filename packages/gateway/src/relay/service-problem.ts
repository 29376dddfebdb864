import { KeywardError } from "@keyward/core";
import { SecretsError } from "@keyward/secrets";
import { McpRefusedError } from "../mcp/index.ts";
import { GatewayProblem } from "../problem.ts";

/**
 * Converts anything that was thrown before a call was forwarded into a problem. The message of a store's error can name hosts
 * and paths, so the caller does not get the message.
 */
export function problemOf(thrown: unknown): GatewayProblem {
  if (thrown instanceof GatewayProblem) return thrown;
  if (thrown instanceof SecretsError) return ofSecretsError(thrown);
  if (thrown instanceof McpRefusedError) return ofMcpError(thrown);
  if (thrown instanceof KeywardError) {
    return new GatewayProblem("SERVICE_UNAVAILABLE", "The store or the keys of the service cannot be reached", {
      hint: "Repeat the call later. The call did not reach the server.",
      cause: thrown,
    });
  }
  return new GatewayProblem("INTERNAL_ERROR", "The gateway failed because of an unexpected error", {
    hint: "Search the log of the service for the id of this call.",
    cause: thrown,
  });
}

/** Returns the problem for a request without a valid token. */
export function tokenRefused(cause?: unknown): GatewayProblem {
  return new GatewayProblem("TOKEN_REFUSED", "The request has no token that is valid now", {
    hint: "Send a valid token in the header Authorization: Bearer kwt_…. An admin of the workspace can issue a new token.",
    cause,
  });
}

function ofMcpError({ code, message, id }: McpRefusedError): GatewayProblem {
  switch (code) {
    case "SESSION_ID_INVALID":
      return new GatewayProblem("ANSWER_REFUSED", message, {
        hint: "Ask the operator of the server. A session id has visible ASCII characters only.",
      });
    case "BODY_TOO_LARGE":
      return new GatewayProblem("BODY_TOO_LARGE", message, { hint: "Send less at once." });
    case "BODY_INVALID":
    case "BODY_TOO_DEEP":
    case "BATCH_REFUSED":
    case "KEY_AMBIGUOUS":
    case "MESSAGE_INVALID":
      return new GatewayProblem("BODY_MALFORMED", message, { hint: "Send one message of MCP, as JSON in UTF-8." });
    case "HEADER_MISMATCH":
      return new GatewayProblem("HEADER_MISMATCH", message, {
        hint: "Send headers that repeat the body, or leave the headers out in a protocol before 2026-07-28.",
        messageId: id,
      });
  }
}

function ofSecretsError(error: SecretsError): GatewayProblem {
  const { code, hint, message } = error;
  switch (code) {
    case "TOKEN_REFUSED":
      return tokenRefused(error);
    case "NOT_ALLOWED":
      return new GatewayProblem("NOT_ALLOWED", "The role of this token does not call servers", {
        hint: "Use a token with the role `member`.",
      });
    case "SERVER_NOT_FOUND":
    case "SECRET_UNUSABLE":
      return new GatewayProblem(code, message, { hint });
    case "AUDIT_UNAVAILABLE":
      return auditUnavailable(error);
    default:
      return new GatewayProblem("SERVICE_UNAVAILABLE", "The secrets service cannot answer now", {
        hint: "Repeat the call later. If the error stays, the operator runs `keyward gateway doctor`.",
        cause: error,
      });
  }
}

/** Returns the problem for a call that cannot be recorded in the audit. */
export function auditUnavailable(cause: unknown): GatewayProblem {
  return new GatewayProblem("AUDIT_UNAVAILABLE", "The audit of the service cannot be written", {
    hint: "Repeat the call later. If the call changes something, find out first whether the server has made the change.",
    cause,
  });
}
