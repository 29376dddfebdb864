import {
  deletedSecrets,
  injection,
  newSecret,
  secretChange,
  secretList,
  secretPath,
} from "../schemas/secret-schemas.ts";
import { server, serverPath } from "../schemas/server-schemas.ts";
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
const tags = ["Secrets"];

/** The routes of secrets. No route returns a value. */
export const secretRoutes = {
  setSecret: adminRoute("setSecret", {
    method: "post",
    path: "/mcp-servers/{slug}/secrets",
    tags,
    summary: "Set a new value of a secret",
    request: { params: serverPath, query: noQuery, headers: ifMatchHeader, body: jsonBody(newSecret) },
    responses: {
      200: jsonAnswer("The secret had a value before.", secretChange, ["etag"]),
      201: jsonAnswer("The secret is new.", secretChange, ["etag", "location"]),
      ...notFound,
      ...conflict,
      ...changed,
    },
  }),
  listSecrets: adminRoute("listSecrets", {
    method: "get",
    path: "/mcp-servers/{slug}/secrets",
    tags,
    summary: "List the secrets of a server, without their values",
    request: { params: serverPath, query: noQuery, headers: ifNoneMatchHeader },
    responses: {
      200: jsonAnswer("The server and its secrets.", secretList, ["etag"]),
      304: { description: "The server has the revision of If-None-Match." },
      ...notFound,
    },
  }),
  deleteAllSecrets: adminRoute("deleteAllSecrets", {
    method: "delete",
    path: "/mcp-servers/{slug}/secrets",
    tags,
    summary: "Delete all secrets of a server",
    request: { params: serverPath, query: noQuery, headers: ifMatchHeader },
    responses: {
      200: jsonAnswer("The server and the names of the deleted secrets.", deletedSecrets, ["etag"]),
      ...notFound,
      ...conflict,
      ...changed,
    },
  }),
  deleteSecret: adminRoute("deleteSecret", {
    method: "delete",
    path: "/mcp-servers/{slug}/secrets/{name}",
    tags,
    summary: "Delete a secret",
    request: { params: secretPath, query: noQuery, headers: ifMatchHeader },
    responses: {
      200: jsonAnswer("The server without the secret.", server, ["etag"]),
      ...notFound,
      ...conflict,
      ...changed,
    },
  }),
  setInjection: adminRoute("setInjection", {
    method: "put",
    path: "/mcp-servers/{slug}/secrets/{name}/injection",
    tags,
    summary: "Change how a value enters the request to its server",
    request: { params: secretPath, query: noQuery, headers: ifMatchHeader, body: jsonBody(injection) },
    responses: { 200: jsonAnswer("The secret.", secretChange), ...notFound, ...conflict, ...changed },
  }),
  getInjection: adminRoute("getInjection", {
    method: "get",
    path: "/mcp-servers/{slug}/secrets/{name}/injection",
    tags,
    summary: "Read how a value enters the request to its server",
    request: { params: secretPath, query: noQuery, headers: ifNoneMatchHeader },
    responses: {
      200: jsonAnswer("The injection.", injection, ["etag"]),
      304: { description: "The server has the revision of If-None-Match." },
      ...notFound,
    },
  }),
};
