/** The flags for the headers that the gateway passes on in addition to its default ones. */
export interface HeaderFlags {
  /** The names for `--forward-header`. */
  readonly forwardHeader?: readonly string[];
  /** The names for `--relay-header`. */
  readonly relayHeader?: readonly string[];
  /** False for `--no-forward-headers`. */
  readonly forwardHeaders?: boolean;
  /** False for `--no-relay-headers`. */
  readonly relayHeaders?: boolean;
}

/** Returns the lists that the flags describe; `undefined` for a list that stays as it is. */
export function headersOf({ forwardHeader, relayHeader, forwardHeaders, relayHeaders }: HeaderFlags): {
  readonly forwardHeaders: string[] | undefined;
  readonly relayHeaders: string[] | undefined;
} {
  return {
    forwardHeaders: listOf(forwardHeader, forwardHeaders === false),
    relayHeaders: listOf(relayHeader, relayHeaders === false),
  };
}

function listOf(names: readonly string[] | undefined, isEmptied: boolean): string[] | undefined {
  return names === undefined && !isEmptied ? undefined : [...(names ?? [])];
}
