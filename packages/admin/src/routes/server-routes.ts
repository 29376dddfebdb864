import { pageQuery } from "../schemas/paging.ts";
import { newServer, server, serverChange, serverPage, serverPath } from "../schemas/server-schemas.ts";
import {
  adminRoute,
  ifMatchHeader,
  ifNoneMatchHeader,
  jsonAnswer,
  jsonBody,
  noQuery,
  routeErrors,
} from "./admin-route.ts";

const { notFound, conflict, changed } = routeErrors;
const tags = ["Servers"];

/** The routes of servers. */
export const serverRoutes = {
  createServer: adminRoute("createServer", {
    method: "post",
    path: "/mcp-servers",
    tags,
    summary: "Create a server",
    request: { query: noQuery, body: jsonBody(newServer) },
    responses: { 201: jsonAnswer("The server.", server, ["etag", "location"]), ...conflict },
  }),
  listServers: adminRoute("listServers", {
    method: "get",
    path: "/mcp-servers",
    tags,
    summary: "List the servers",
    request: { query: pageQuery },
    responses: { 200: jsonAnswer("A page of servers.", serverPage, ["link"]) },
  }),
  getServer: adminRoute("getServer", {
    method: "get",
    path: "/mcp-servers/{slug}",
    tags,
    summary: "Read a server",
    request: { params: serverPath, query: noQuery, headers: ifNoneMatchHeader },
    responses: {
      200: jsonAnswer("The server.", server, ["etag"]),
      304: { description: "The server has the revision of If-None-Match. Its state may have changed." },
      ...notFound,
    },
  }),
  updateServer: adminRoute("updateServer", {
    method: "patch",
    path: "/mcp-servers/{slug}",
    tags,
    summary: "Change a server",
    request: { params: serverPath, query: noQuery, headers: ifMatchHeader, body: jsonBody(serverChange) },
    responses: { 200: jsonAnswer("The changed server.", server, ["etag"]), ...notFound, ...conflict, ...changed },
  }),
  deleteServer: adminRoute("deleteServer", {
    method: "delete",
    path: "/mcp-servers/{slug}",
    tags,
    summary: "Delete a server with its secrets",
    request: { params: serverPath, query: noQuery, headers: ifMatchHeader },
    responses: { 204: { description: "The server is deleted." }, ...notFound, ...conflict, ...changed },
  }),
};
