import { apiPath } from "../routes/admin-route.ts";
import { allRoutes } from "../routes/all-routes.ts";
import { apiProblem, type ProblemError } from "./problem-error.ts";

interface KnownPath {
  readonly pattern: RegExp;
  readonly methods: readonly string[];
}

const knownPaths: readonly KnownPath[] = (() => {
  const methods = new Map<string, string[]>([["/openapi.json", ["GET"]]]);
  for (const { method, path } of Object.values(allRoutes)) {
    methods.set(path, [...(methods.get(path) ?? []), method.toUpperCase()]);
  }
  return [...methods].map(([path, own]) => ({
    pattern: new RegExp(`^${apiPath}${path.replaceAll(/\{\w+\}/g, "[^/]+").replaceAll(".", "\\.")}$`),
    methods: own,
  }));
})();

/** Returns the error for a request that no route answers: 405 if the path has other methods, else 404. */
export function unknownRoute(path: string): ProblemError {
  const known = knownPaths.find(({ pattern }) => pattern.test(path));
  if (known === undefined) {
    return apiProblem("ROUTE_NOT_FOUND", {
      title: "No such route",
      detail: "The service has no route with this path",
      hint: path.startsWith("/s/")
        ? "This is the admin API. Send calls of servers to the gateway, which has another URL: `keyward gateway start` prints both."
        : `Correct the path. ${apiPath}/openapi.json describes the routes.`,
    });
  }
  const allowed = known.methods.includes("GET") ? [...known.methods, "HEAD"] : known.methods;
  return apiProblem(
    "METHOD_NOT_ALLOWED",
    {
      title: "Method not allowed",
      detail: `The route has the methods ${allowed.join(", ")} only`,
      hint: `Use one of these methods. ${apiPath}/openapi.json describes the routes.`,
    },
    { allow: allowed.join(", ") },
  );
}
