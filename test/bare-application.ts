import { cpSync, mkdirSync, realpathSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Makes an application in `folder` that has the sources of one package in `src`, and of all packages only
 * `@keyward/core` installed. Returns the path of the application.
 *
 * @param testUrl the URL of a test of the package.
 */
export function makeBareApplication(testUrl: string, folder: string): string {
  const application = join(folder, "application");
  cpSync(fileURLToPath(new URL("../src", testUrl)), join(application, "src"), { recursive: true });
  mkdirSync(join(application, "node_modules", "@keyward"), { recursive: true });
  const core = realpathSync(fileURLToPath(new URL("../node_modules/@keyward/core", testUrl)));
  symlinkSync(core, join(application, "node_modules", "@keyward", "core"));
  return application;
}
