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

/** Returns the error for a request without a route: 405 if the path has a route with another method, else 404. */
export function unknownRoute(path: string): ProblemError {
  const known = knownPaths.find(({ pattern }) => pattern.test(path));
  if (known === undefined) {
    return apiProblem("ROUTE_NOT_FOUND", {
      title: "No such route",
      detail: "The admin API has no route with this path",
      hint: path.startsWith("/s/")
        ? "This is the admin API. Send calls to servers to the URL of the gateway. `keyward gateway start` prints both URLs."
        : `Correct the path. ${apiPath}/openapi.json describes the routes.`,
    });
  }
  const allowed = known.methods.includes("GET") ? [...known.methods, "HEAD"] : known.methods;
  return apiProblem(
    "METHOD_NOT_ALLOWED",
    {
      title: "Method not allowed",
      detail: `This path accepts only the methods ${allowed.join(", ")}`,
      hint: `Use one of these methods. ${apiPath}/openapi.json describes the routes.`,
    },
    { allow: allowed.join(", ") },
  );
}
