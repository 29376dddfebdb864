import { KeywardError, type KeywardErrorCode } from "@keyward/core";
import { expect } from "vitest";
import { expectNoSecrets } from "./secrets.ts";

/** Returns the error that a call rejects with. Fails if it is not a KeywardError, or if it shows a secret. */
export async function refusal(call: PromiseLike<unknown> | (() => unknown)): Promise<KeywardError> {
  let result: unknown;
  try {
    result = await (typeof call === "function" ? call() : call);
  } catch (error) {
    if (!(error instanceof KeywardError))
      throw new Error("The call rejected with an error that is not a KeywardError", { cause: error });
    expect(error.hint).not.toBe("");
    expectNoSecrets(error);
    return error;
  }
  throw new Error(`The call did not reject, but returned ${JSON.stringify(result)}`);
}

/** Returns the error that a call rejects with. Fails if the error has another code, or shows a secret. */
export async function expectRefusal(
  call: PromiseLike<unknown> | (() => unknown),
  code: KeywardErrorCode,
): Promise<KeywardError> {
  const error = await refusal(call);
  expect(error.code).toBe(code);
  return error;
}
