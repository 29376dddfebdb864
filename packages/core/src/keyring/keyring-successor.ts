import { KeywardError } from "../errors/errors.ts";
import { type Keyring, sharesKey } from "./keyring.ts";

/**
 * Which of two keyrings, `next` and `previous`, can decrypt the check record of a store. The check record proves that a
 * keyring belongs to the store. If the store has no check record yet, both fields are false.
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
 * @param askStores Asks each store which of the two keyrings can decrypt the check record of the store. A store that
 * cannot find out answers `undefined`.
 * @throws KeywardError `KEYRING_ROLLBACK` if `next` must not replace `previous`.
 */
export async function requireSuccessor(
  previous: Keyring,
  next: Keyring,
  askStores: () => Promise<readonly (Recognition | undefined)[]>,
): Promise<void> {
  // A keyring without keys, which is for development, may be replaced by any keyring.
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
  // Unrelated keyrings may have the same name and any generation. After a whole rotation that this process missed, the
  // new keyring shares no key with the keyring in use either. But then the new keyring can decrypt the check record.
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
 * Returns true if this process never had a keyring with which it was allowed to write to the store. In this case, the
 * next keyring may have any name and generation number.
 */
function wasWrongFromTheBeginning({ previous, hadRightRing }: Recognition): boolean {
  return !previous && !hadRightRing;
}

function shownScope({ scopeName }: Keyring): string {
  return scopeName === undefined ? "no scope" : `scope ${JSON.stringify(scopeName)}`;
}

function refused(problem: string): KeywardError {
  return new KeywardError("KEYRING_ROLLBACK", `The keyring from the key provider was refused: ${problem}`, {
    hint: "Restore the right keyring at the source from which the key provider loads the keyring. Do not restart this process before: it works with the former keyring now, and accepts any keyring after a restart. Restart it only if the refused keyring is the right one.",
  });
}
