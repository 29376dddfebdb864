/** Returns the day of a time, such as `2026-11-27`, in UTC. */
export function dayOf(time: string): string {
  return time.slice(0, 10);
}

/** Returns a time in RFC 3339 as milliseconds since the epoch. */
export function millisecondsOf(time: string): number;
export function millisecondsOf(time: string | null): number | null;
export function millisecondsOf(time: string | null): number | null {
  return time === null ? null : Date.parse(time);
}
