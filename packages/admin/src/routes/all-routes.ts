import { callRoutes } from "./call-routes.ts";
import { readingRoutes } from "./reading-routes.ts";
import type { OperationId } from "./route-rights.ts";
import { secretRoutes } from "./secret-routes.ts";
import { serverRoutes } from "./server-routes.ts";
import { tokenRoutes } from "./token-routes.ts";
import { workspaceRoutes } from "./workspace-routes.ts";

/** The description of a route, without its handler. */
interface KnownRoute {
  readonly method: string;
  /** The path below the API's path, with parameters such as `{slug}`. */
  readonly path: string;
  readonly request?: { readonly query?: unknown; readonly body?: unknown };
  getRoutingPath(): string;
}

/** Every route by its operation id. The compiler refuses a route that is missing here. */
export const allRoutes: Readonly<Record<OperationId, KnownRoute>> = {
  ...readingRoutes,
  ...workspaceRoutes,
  ...serverRoutes,
  ...secretRoutes,
  ...tokenRoutes,
  ...callRoutes,
};
