import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { pageQuery } from "../schemas/paging.ts";
import { createdWorkspace, newWorkspace, workspace, workspacePage } from "../schemas/workspace-schemas.ts";
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
const tags = ["Workspaces"];
const workspacePath = z.strictObject({
  name: fields.slugField.meta({ description: "The name of a workspace.", examples: ["payments"] }),
});

/** The routes of workspaces. */
export const workspaceRoutes = {
  createWorkspace: adminRoute("createWorkspace", {
    method: "post",
    path: "/workspaces",
    tags,
    summary: "Create a workspace and the token of its first admin",
    request: { query: noQuery, body: jsonBody(newWorkspace) },
    responses: {
      201: jsonAnswer("The workspace and the token.", createdWorkspace, ["location"]),
      ...conflict,
    },
  }),
  listWorkspaces: adminRoute("listWorkspaces", {
    method: "get",
    path: "/workspaces",
    tags,
    summary: "List the workspaces",
    request: { query: pageQuery },
    responses: { 200: jsonAnswer("A page of workspaces.", workspacePage, ["link"]) },
  }),
  getWorkspace: adminRoute("getWorkspace", {
    method: "get",
    path: "/workspaces/{name}",
    tags,
    summary: "Read a workspace",
    request: { params: workspacePath, query: noQuery, headers: ifNoneMatchHeader },
    responses: {
      200: jsonAnswer("The workspace.", workspace, ["etag"]),
      304: { description: "The workspace has the revision of If-None-Match." },
      ...notFound,
    },
  }),
  deleteWorkspace: adminRoute("deleteWorkspace", {
    method: "delete",
    path: "/workspaces/{name}",
    tags,
    summary: "Delete a workspace with its servers, secrets and tokens",
    request: { params: workspacePath, query: noQuery, headers: ifMatchHeader },
    responses: { 204: { description: "The workspace is deleted." }, ...notFound, ...conflict, ...changed },
  }),
};
