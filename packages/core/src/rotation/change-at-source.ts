import { asKeywardError, KeywardError } from "../errors/errors.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { type Keyring, sameKeyring } from "../keyring/keyring.ts";
import { type ChangeInstruction, describeChange, isMade, type KeyringChange } from "../keyring/keyring-change.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { keysIn } from "../store/check-record.ts";
import { abortable } from "../waiting/abortable.ts";
import { pause } from "../waiting/pause.ts";

/** An instruction to an operator to change the keys at their source. A guided rotation waits for this change. */
export interface Instruction extends ChangeInstruction {
  /** The change that the operator must make at the source of the keys. */
  readonly change: KeyringChange;
  /**
   * The reason why the keys at the source cannot be used now, such as an invalid key that the operator wrote. Absent if
   * the keys can be used, but the change was not made yet.
   */
  readonly problem?: KeywardError;
}

/**
 * A function that passes an instruction to an operator, for example by printing its text, or that makes the change
 * itself. If the function returns a promise, the rotation waits for the promise first.
 */
export type Instruct = (instruction: Instruction) => void | Promise<void>;

/**
 * The key provider of a guided rotation, the source that loads its keyring, and the function that instructs an
 * operator.
 */
export interface GuidedSource {
  readonly provider: KeyProvider;
  readonly source: KeyringSource;
  readonly instruct: Instruct;
  readonly signal: AbortSignal | undefined;
}

const firstPollMs = 50;
const longestPollMs = 1_000;

/**
 * Instructs an operator to make a change at the source of the keys, and waits until this process has loaded a keyring
 * with the change. The wait has no time limit: only the signal or an error ends it.
 *
 * @param keyring the keyring at the source, before the change.
 * @param requireCurrent called before each load. If the change is no longer wanted, it must throw, which ends the wait.
 * @throws KeywardError `CHANGE_NEEDED` if this process must be restarted before it sees the change; the errors of
 * `instruct`.
 */
export async function changeAtSource(
  { provider, source, instruct, signal }: GuidedSource,
  change: KeyringChange,
  keyring: Keyring,
  requireCurrent: () => Promise<void>,
): Promise<void> {
  const instruction = await instructionFor(provider, change, keyring);
  const tell = async (problem?: KeywardError) => {
    const given = { ...instruction, change, ...(problem === undefined ? {} : { problem }) };
    // The caller must be able to stop the run, even if the operator never answers.
    await abortable(async () => await instruct(given), signal ?? new AbortController().signal);
  };
  await tell();
  let problemBefore = "";
  let before = keyring;
  for (let pollMs = firstPollMs; ; pollMs = Math.min(pollMs * 1.5, longestPollMs)) {
    signal?.throwIfAborted();
    await requireCurrent();
    const loaded = await load(source);
    if (!(loaded instanceof KeywardError) && isMade(change, loaded)) return;
    if (instruction.needsRestart)
      throw loaded instanceof KeywardError ? loaded : changeNeeded(change, instruction, loaded);
    const problem = loaded instanceof KeywardError ? loaded : otherChange(change, before, loaded);
    if (problem !== undefined && problem.message !== problemBefore) await tell(problem);
    problemBefore = problem?.message ?? "";
    if (!(loaded instanceof KeywardError)) before = loaded;
    await pause(pollMs, signal);
  }
}

/**
 * Returns the error for a keyring that the operator changed, but not as the instruction asks; `undefined` if the
 * keyring was not changed.
 */
function otherChange(change: KeyringChange, before: Keyring, now: Keyring): KeywardError | undefined {
  if (sameKeyring(before, now)) return undefined;
  return new KeywardError(
    "CHANGE_NEEDED",
    `The keys at the source were changed, but not as the instruction asks: the source has ${keysIn(now)}, and "${now.primary}" is the primary`,
    { keyId: change.keyId, hint: "Compare the ids of the keys with the instruction, and correct the change." },
  );
}

async function instructionFor(
  provider: KeyProvider,
  change: KeyringChange,
  keyring: Keyring,
): Promise<ChangeInstruction> {
  try {
    const described = await provider.describeChange?.(change, keyring);
    return described ?? describeChange(change, await whyReadOnly(provider));
  } catch (error) {
    const hint = "Check the source of the keys, and run the call again, which resumes at this change.";
    throw asKeywardError(
      error,
      "PROVIDER_UNAVAILABLE",
      "The key provider failed to describe the change that an operator must make at the source of the keys",
      hint,
    );
  }
}

/**
 * Returns the message and hint of the error with which `requireWritable` of the provider rejects, as advice for the
 * operator; "" if it does not reject.
 */
async function whyReadOnly(provider: KeyProvider): Promise<string> {
  try {
    await provider.requireWritable?.();
  } catch (error) {
    if (error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY") return ` ${error.message}. ${error.hint}`;
    throw error;
  }
  return "";
}

async function load(source: KeyringSource): Promise<Keyring | KeywardError> {
  try {
    return await source.refresh();
  } catch (error) {
    if (error instanceof KeywardError) return error;
    throw error;
  }
}

function changeNeeded(change: KeyringChange, { text }: ChangeInstruction, keyring: Keyring): KeywardError {
  const present = `This process has ${keysIn(keyring)}, and "${keyring.primary}" is the primary`;
  return new KeywardError(
    "CHANGE_NEEDED",
    `${changeInWords(change)}, but this process does not see this change. ${present}`,
    {
      keyId: change.keyId,
      hint: `${text} Then run this call again in a process that was started after the change. The call resumes here.`,
    },
  );
}

function changeInWords(change: KeyringChange): string {
  switch (change.kind) {
    case "add":
      return `Key "${change.keyId}" must be added at the source of the keys`;
    case "promote":
      return `Key "${change.keyId}" must become the primary at the source of the keys`;
    case "remove":
      return `Key "${change.keyId}" must be removed at the source of the keys`;
    case "replace":
      return `Key "${change.keyId}" must replace key "${change.former}" at the source of the keys`;
  }
}
