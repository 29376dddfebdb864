import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { describe, it } from "vitest";

/** Where programs of these names lie on the PATH. */
export function onPath(...names: readonly string[]): string[] {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).filter((path) => existsSync(path));
}

/** How servers are started here, the one that is there already, or why there is none: one of them, and no other. */
export type OneOf<Ways> = {
  [Way in keyof Ways]: { readonly [Own in Way]: Ways[Own] } & {
    readonly [Other in Exclude<keyof Ways, Way>]?: undefined;
  };
}[keyof Ways];

/**
 * What the first way leads to that leads anywhere; else why none does. Each way is named by what is wrong where it leads
 * nowhere.
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
 * `describe` for suites that need servers. Where there are none the suite is skipped with the reason in its name, and
 * with CI=true it fails.
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
      it("has a server", () => {
        throw new Error(missing);
      });
    });
  } else {
    describe.skip(`${name} (skipped: ${missing})`, suite);
  }
}
