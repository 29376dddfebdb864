import { whoAmI } from "../schemas/caller-schemas.ts";
import { changePage, changeQuery } from "../schemas/change-schemas.ts";
import { keyCensus, rotationState } from "../schemas/key-schemas.ts";
import { adminRoute, jsonAnswer, noQuery } from "./admin-route.ts";

/** The routes that only read: who the caller is, the changes, and the state of the keys. */
export const readingRoutes = {
  whoAmI: adminRoute("whoAmI", {
    method: "get",
    path: "/whoami",
    tags: ["Caller"],
    summary: "Read who you are",
    request: { query: noQuery },
    responses: { 200: jsonAnswer("Who you are.", whoAmI) },
  }),
  listChanges: adminRoute("listChanges", {
    method: "get",
    path: "/changes",
    tags: ["Changes"],
    summary: "List the changes",
    request: { query: changeQuery },
    responses: { 200: jsonAnswer("A page of changes.", changePage, ["link"]) },
  }),
  census: adminRoute("census", {
    method: "get",
    path: "/keys/census",
    tags: ["Keys"],
    summary: "Count the records under each encryption key",
    request: { query: noQuery },
    responses: { 200: jsonAnswer("The counts.", keyCensus) },
  }),
  rotation: adminRoute("rotation", {
    method: "get",
    path: "/keys/rotation",
    tags: ["Keys"],
    summary: "Read the state of the key rotation",
    request: { query: noQuery },
    responses: { 200: jsonAnswer("The rotation that is in progress, or the last one.", rotationState) },
  }),
};
