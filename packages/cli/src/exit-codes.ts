/** The exit codes of `keyward`, as the README lists them. */
export const exitCodes = {
  done: 0,
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** An operator has to act before the command can continue: change the keys, or wait for a replica. */
  waiting: 3,
  /** Stopped by SIGINT, as shells report it. */
  interrupted: 130,
} as const;

/** Thrown by `keyward doctor` after it has printed the problems that it found. */
export class DoctorFoundProblems extends Error {}

/** The codes of errors after which the same command continues when something else has happened. */
export const waitingCodes: readonly string[] = ["CHANGE_NEEDED", "REPLICA_BEHIND", "NO_REPLICAS"];
