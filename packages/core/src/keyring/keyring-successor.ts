import { KeywardError } from "../errors/errors.ts";
import { type Keyring, sharesKey } from "./keyring.ts";

/**
 * The answer of a store to the question which of two keyrings, `next` and `previous`, can decrypt its check record. The
 * check record proves that a keyring belongs to the store. If the store has no check record yet, both are false.
 */
export interface Recognition {
  readonly next: boolean;
  readonly previous: boolean;
  /** True if this process has ever had a keyring that could write to the store. */
  readonly hadRightRing: boolean;
}

/**
 * Checks that a loaded keyring, `next`, may replace the keyring in use, `previous`. `next` may replace `previous` in
 * two cases: it is a later generation of the same keyring, or the check records of the stores show that `previous` was
 * the wrong keyring from the beginning.
 *
 * @param askStores Asks each store which of the two keyrings can decrypt the check record of the store. The answer of a
 * store that cannot know is `undefined`.
 * @throws KeywardError `KEYRING_ROLLBACK` if `next` must not replace `previous`.
 */
export async function requireSuccessor(
  previous: Keyring,
  next: Keyring,
  askStores: () => Promise<readonly (Recognition | undefined)[]>,
): Promise<void> {
  // A keyring without keys, for development, may become any keyring.
  if (previous.primary === "") return;
  if (next.primary === "") throw refused("it has no keys, so stores would write plaintext");
  if (next.scopeName !== previous.scopeName) {
    throw refused(`it is for ${shownScope(next)}, and the keyring in use is for ${shownScope(previous)}`);
  }
  const problem = whyNotLater(previous, next);
  const answers = await askStores();
  const isRecognized = answers.some((answer) => answer?.next);
  if (isRecognized && answers.every((answer) => answer !== undefined && wasWrongFromTheBeginning(answer))) return;
  if (problem !== undefined) throw refused(problem);
  if (answers.some((answer) => answer?.previous && !answer.next)) {
    throw refused("it cannot decrypt the check record of a store, which the keyring in use can decrypt");
  }
  // Unrelated keyrings may have the same name and any generation. A process that missed a whole rotation shares no key
  // with the result, but by then the check record is encrypted under the result.
  if (!isRecognized && !sharesKey(previous, next)) {
    throw refused("it is an unrelated keyring, which shares no key with the keyring in use");
  }
}

function whyNotLater(previous: Keyring, next: Keyring): string | undefined {
  if (next.name !== previous.name) {
    return `it is another keyring, named ${JSON.stringify(next.name)} instead of ${JSON.stringify(previous.name)}`;
  }
  if (next.generation >= previous.generation) return undefined;
  return `it is of generation ${next.generation}, and the keyring in use is of generation ${previous.generation}`;
}

/**
 * True if the process was never allowed to write to the store with its keyring. Then the next keyring need not match
 * the name and generation number of that keyring.
 */
function wasWrongFromTheBeginning({ previous, hadRightRing }: Recognition): boolean {
  return !previous && !hadRightRing;
}

function shownScope({ scopeName }: Keyring): string {
  return scopeName === undefined ? "no scope" : `scope ${JSON.stringify(scopeName)}`;
}

function refused(problem: string): KeywardError {
  return new KeywardError("KEYRING_ROLLBACK", `The keyring from the key provider was refused: ${problem}`, {
    hint: "Restore the right keyring at the source from which the key provider loads the keyring. Until then, do not restart this process, because it still uses the former keyring. Only if the refused keyring is the right one, restart this process, which then uses that keyring.",
  });
}
