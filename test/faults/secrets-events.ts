/** An operation or a call of one process. All processes share one clock. Times are in nanoseconds. */
export type ServiceEvent = ServiceChangeEvent | CallEvent;

/** The begin and the end of an operation or call. If a kill or a failure interrupted the operation, the end is absent. */
export interface Span {
  readonly began: number;
  readonly ended?: number;
}

/** An operation of an admin. `code` is the code of the refusal, if the operation was refused. */
export type ServiceChangeEvent = Span & { readonly code?: string } & (
    | { readonly kind: "create server" | "change URL"; readonly slug: string; readonly url: string }
    | { readonly kind: "delete server" | "delete all secrets"; readonly slug: string }
    | { readonly kind: "set"; readonly slug: string; readonly name: string; readonly value: string }
    | { readonly kind: "delete secret"; readonly slug: string; readonly name: string }
    | { readonly kind: "create token"; readonly token: string }
    | { readonly kind: "revoke token"; readonly token: string }
  );

/** A call through the gateway: the URL and values that it would send, or the code with which it was refused. */
export interface CallEvent extends Span {
  readonly kind: "call";
  readonly token: string;
  readonly slug: string;
  readonly code?: string;
  readonly url?: string;
  readonly values?: Readonly<Record<string, string>>;
}

/** A line of the file that a process writes while it works: the begin of an operation, or its end. */
export type EventLine =
  | { readonly at: "begin"; readonly number: number; readonly event: ServiceEvent }
  | { readonly at: "end"; readonly number: number; readonly event: ServiceEvent };

/** Returns the events of a file of {@link EventLine}s. An operation without an end is an event with only its begin. */
export function eventsOf(text: string): readonly ServiceEvent[] {
  const events = new Map<number, ServiceEvent>();
  // A process that was killed may have written a part of its last line.
  for (const line of text.slice(0, text.lastIndexOf("\n")).split("\n")) {
    if (line === "") continue;
    const { number, event }: EventLine = JSON.parse(line);
    events.set(number, event);
  }
  return [...events.values()];
}
