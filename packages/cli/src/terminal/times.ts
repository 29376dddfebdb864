/** Returns the day of a time, such as `2026-11-27`, in UTC. */
export function dayOf(time: string): string {
  return time.slice(0, 10);
}

/** Returns an end: its day, or within the next two days also its time, such as `2026-11-27 21:30 UTC`. */
export function endOf(time: string): string {
  if (Date.parse(time) - Date.now() > timeShownWithinMs) return dayOf(time);
  return `${dayOf(time)} ${time.slice(11, 16)} UTC`;
}

const timeShownWithinMs = 2 * 24 * 3_600_000;

/** Returns a time in RFC 3339 as milliseconds since the epoch. */
export function millisecondsOf(time: string): number;
export function millisecondsOf(time: string | null): number | null;
export function millisecondsOf(time: string | null): number | null {
  return time === null ? null : Date.parse(time);
}
