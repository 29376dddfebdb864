import { join } from "node:path";
import { API, type Checker, type Symbol as Named, type Project, SymbolFlags } from "typescript/unstable/sync";

/** Opens a package with the TypeScript compiler, calls `read` with the project, and closes the compiler. */
export function withProject<T>(packageFolder: string, read: (project: Project) => T): T {
  const compiler = new API({ cwd: packageFolder });
  try {
    const configuration = join(packageFolder, "tsconfig.json");
    const project = compiler.updateSnapshot({ openProjects: [configuration] }).getProject(configuration);
    if (project === undefined) throw new Error(`The compiler cannot open ${configuration}`);
    return read(project);
  } finally {
    compiler.close();
  }
}

/** Returns the members of a class, an interface or the type that an alias names. */
export function membersOf(symbol: Named, checker: Checker): readonly Named[] {
  if (symbol.flags & SymbolFlags.TypeAlias) return checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol));
  return [...symbol.getMembers().values(), ...symbol.getExports().values()];
}
