import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { describe, it } from "vitest";

/** Returns the paths of programs with these names on the PATH. */
export function onPath(...names: readonly string[]): string[] {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).filter((path) => existsSync(path));
}

/** Exactly one of: a way to start servers, a running server, or the reason why there is none. */
export type OneOf<Ways> = {
  [Way in keyof Ways]: { readonly [Own in Way]: Ways[Own] } & {
    readonly [Other in Exclude<keyof Ways, Way>]?: undefined;
  };
}[keyof Ways];

/**
 * Tries several ways to obtain a server, and returns the result of the first way that succeeds. If no way succeeds,
 * returns the reasons. The property name of each way in `ways` is the reason to report if this way fails.
 */
export async function firstFound<Found>(
  ways: Readonly<Record<string, () => Promise<Found | undefined>>>,
): Promise<Found | { readonly missing: string }> {
  const failures: string[] = [];
  for (const [failure, find] of Object.entries(ways)) {
    try {
      const found = await find();
      if (found !== undefined) return found;
      failures.push(failure);
    } catch (error) {
      const [reason] = (error instanceof Error ? error.message : String(error)).split("\n");
      failures.push(`${failure} (${reason})`);
    }
  }
  return { missing: failures.join("; ") };
}

/**
 * `describe` for suites that need servers. Without servers, the suite is skipped, and the reason is in the name of the
 * suite. With CI=true, the suite fails instead.
 */
export function describeWithServer(
  { missing }: { readonly missing?: string | undefined },
  name: string,
  suite: () => void,
): void {
  if (missing === undefined) {
    describe(name, suite);
  } else if (process.env["CI"] === "true") {
    describe(name, () => {
      it("this machine has the server that the tests need", () => {
        throw new Error(missing);
      });
    });
  } else {
    describe.skip(`${name} (skipped: ${missing})`, suite);
  }
}
