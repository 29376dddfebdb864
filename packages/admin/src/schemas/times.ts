import { z } from "zod";

// RFC 3339, in UTC or with an offset. The secrets service refuses an earlier time.
const earliestMs = 0;

/** A time that a caller sends, in RFC 3339, at or after 1970-01-01T00:00:00Z. */
export const timeText = z.iso
  .datetime({ offset: true, abort: true })
  .max(40)
  .refine((text) => Date.parse(text) >= earliestMs, "must be at or after 1970-01-01T00:00:00Z")
  .meta({ description: "A time in RFC 3339.", examples: ["2027-01-31T12:00:00Z"] });

/** A time in an answer, in RFC 3339 and UTC. */
export const answerTime = z.iso.datetime().meta({
  description: "A time in RFC 3339, in UTC.",
  examples: ["2026-11-28T09:30:00.000Z"],
});

/** Returns the milliseconds since the epoch of a time that {@link timeText} accepted. */
export function millisecondsOf(text: string): number {
  return Date.parse(text);
}

/** Returns a time in milliseconds since the epoch as RFC 3339, in UTC. */
export function timeOf(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}

/** Like {@link timeOf}, but returns `null` for a time that is absent. */
export function optionalTimeOf(milliseconds: number | undefined): string | null {
  return milliseconds === undefined ? null : timeOf(milliseconds);
}
