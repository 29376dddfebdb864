/** The exit codes of `keyward`, as the README lists them. */
export const exitCodes = {
  done: 0,
  failed: 1,
  /** The command line or the configuration is wrong. */
  usage: 2,
  /** An operator has to act before the command can continue: change the keys, or wait for a replica. */
  waiting: 3,
  /** A signal stopped the command. Shells use this code for SIGINT. */
  interrupted: 130,
} as const;

/** The error codes of the command itself. The packages that the command calls have other codes. */
export type CommandErrorCode =
  /** The command line or the configuration is wrong or incomplete. */
  | "USAGE"
  /** The operator did not confirm a change that cannot be undone. */
  | "NOT_CONFIRMED"
  /** The store has no record at the address. */
  | "NO_RECORD"
  /** A backup cannot be decrypted with the passphrase. */
  | "PASSPHRASE_WRONG"
  /** The operator stopped the command. */
  | "INTERRUPTED"
  /** Keyward or one of its packages has a fault. */
  | "UNEXPECTED";

/** An error of the command itself. */
export class CommandError extends Error {
  readonly code: CommandErrorCode;
  /** An instruction for the operator: what to do next. */
  readonly hint: string;

  constructor(code: CommandErrorCode, message: string, { hint }: { readonly hint: string }) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

/** Thrown after a command has printed its result and the problems that it found. The process then exits with `exitCode`. */
export class ProblemsPrinted extends Error {
  readonly exitCode: number;

  constructor(exitCode: number = exitCodes.failed) {
    super();
    this.exitCode = exitCode;
  }
}

/** The codes of errors after which an operator acts or waits, and then runs the same command again. */
const waitingCodes: readonly string[] = ["CHANGE_NEEDED", "REPLICA_BEHIND", "NO_REPLICAS", "ROTATION_IN_PROGRESS"];

/** Thrown when the operator stops the command. */
export class Interrupted extends Error {}

/** Returns the exit code for an error that a command has thrown. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommandError) return error.code === "USAGE" ? exitCodes.usage : exitCodes.failed;
  const isWaiting = error instanceof Error && "code" in error && waitingCodes.includes(String(error.code));
  return isWaiting ? exitCodes.waiting : exitCodes.failed;
}
