import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of this repository. */
export const repository = fileURLToPath(new URL("..", import.meta.url));

/** The fields of a package.json that the tests read. */
export interface Manifest {
  readonly name: string;
  readonly version?: string;
  readonly license?: string;
  readonly type?: string;
  readonly private?: boolean;
  readonly engines?: Readonly<Record<string, string>>;
  readonly files?: readonly string[];
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly bin?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly scripts?: Readonly<Record<string, string>>;
}

/** A package of the workspace, with its folder relative to the root. */
export interface WorkspacePackage {
  readonly folder: string;
  readonly manifest: Manifest;
}

export function readManifest(folder: string): Manifest {
  const manifest: Manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return manifest;
}

/** Returns every package of a workspace: published packages in packages/, then examples and the bench. */
export function workspacePackages(root: string): WorkspacePackage[] {
  const under = (parent: string) =>
    existsSync(join(root, parent)) ? readdirSync(join(root, parent)).map((folder) => join(parent, folder)) : [];
  return [...under("packages"), ...under("examples"), "bench"]
    .filter((folder) => existsSync(join(root, folder, "package.json")))
    .map((folder) => ({ folder, manifest: readManifest(join(root, folder)) }));
}

/** Returns the packages that are published. */
export function publishedPackages(root: string): WorkspacePackage[] {
  return workspacePackages(root).filter(({ folder }) => folder.startsWith("packages/"));
}

/** Returns the published packages that export names. The others are only a command. */
export function publishedLibraries(root: string): WorkspacePackage[] {
  return publishedPackages(root).filter(({ manifest }) => manifest.exports?.["."] !== undefined);
}
