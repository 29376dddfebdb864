import { call, callPage, callPath, callQuery, explanation, explanationQuery } from "../schemas/call-schemas.ts";
import { serverPath } from "../schemas/server-schemas.ts";
import { adminRoute, jsonAnswer, noQuery, routeErrors } from "./admin-route.ts";

const { notFound } = routeErrors;
const tags = ["Calls"];

/** The routes that list recorded calls, and that explain what a call would do. */
export const callRoutes = {
  listCalls: adminRoute("listCalls", {
    method: "get",
    path: "/calls",
    tags,
    summary: "List the calls",
    request: { query: callQuery },
    responses: { 200: jsonAnswer("A page of calls. The call that ended last is first.", callPage, ["link"]) },
  }),
  getCall: adminRoute("getCall", {
    method: "get",
    path: "/calls/{id}",
    tags,
    summary: "Read a call",
    request: { params: callPath, query: noQuery },
    responses: { 200: jsonAnswer("The call.", call), ...notFound },
  }),
  explainCall: adminRoute("explainCall", {
    method: "get",
    path: "/mcp-servers/{slug}/explanation",
    tags,
    summary: "Explain what a call would do",
    request: { params: serverPath, query: explanationQuery },
    responses: { 200: jsonAnswer("What the call would do.", explanation), ...notFound },
  }),
};
