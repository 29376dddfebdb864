import { KeywardError, type KeywardErrorCode } from "@keyward/core";
import { expect } from "vitest";
import { expectNoSecrets } from "./secrets.ts";

/** The error that a call rejects with. It must be Keyward's own, and show no secret in any way it can be shown. */
export async function refusal(call: PromiseLike<unknown> | (() => unknown)): Promise<KeywardError> {
  let result: unknown;
  try {
    result = await (typeof call === "function" ? call() : call);
  } catch (error) {
    if (!(error instanceof KeywardError)) throw new Error("rejected with what is no KeywardError", { cause: error });
    expect(error.hint).not.toBe("");
    expectNoSecrets(error);
    return error;
  }
  throw new Error(`was not refused, and answered ${JSON.stringify(result)}`);
}

/** Fails unless the call rejects with this code. */
export async function expectRefusal(
  call: PromiseLike<unknown> | (() => unknown),
  code: KeywardErrorCode,
): Promise<KeywardError> {
  const error = await refusal(call);
  expect(error.code).toBe(code);
  return error;
}
