import {
  issuedToken,
  newToken,
  revokedTokens,
  token,
  tokenListQuery,
  tokenOwnerQuery,
  tokenPage,
  tokenPath,
  tokenRotation,
} from "../schemas/token-schemas.ts";
import { adminRoute, jsonAnswer, jsonBody, noQuery, routeErrors } from "./admin-route.ts";

const { notFound, conflict } = routeErrors;
const tags = ["Tokens"];

/** The routes of tokens. */
export const tokenRoutes = {
  createToken: adminRoute("createToken", {
    method: "post",
    path: "/tokens",
    tags,
    summary: "Create a token",
    request: { query: noQuery, body: jsonBody(newToken) },
    responses: { 201: jsonAnswer("The token, with its text.", issuedToken), ...notFound, ...conflict },
  }),
  listTokens: adminRoute("listTokens", {
    method: "get",
    path: "/tokens",
    tags,
    summary: "List the tokens, without their texts",
    request: { query: tokenListQuery },
    responses: { 200: jsonAnswer("A page of tokens.", tokenPage, ["link"]) },
  }),
  revokeTokensOf: adminRoute("revokeTokensOf", {
    method: "delete",
    path: "/tokens",
    tags,
    summary: "Revoke all tokens of an owner",
    request: { query: tokenOwnerQuery },
    responses: { 200: jsonAnswer("The ids of the tokens that were revoked.", revokedTokens), ...notFound, ...conflict },
  }),
  revokeToken: adminRoute("revokeToken", {
    method: "delete",
    path: "/tokens/{id}",
    tags,
    summary: "Revoke a token",
    request: { params: tokenPath, query: noQuery },
    responses: { 200: jsonAnswer("The revoked token.", token), ...notFound, ...conflict },
  }),
  rotateToken: adminRoute("rotateToken", {
    method: "post",
    path: "/tokens/{id}/rotate",
    tags,
    summary: "Replace a token with a new one of the same owner, role and scopes",
    request: { params: tokenPath, query: noQuery, body: jsonBody(tokenRotation) },
    responses: { 201: jsonAnswer("The new token, with its text.", issuedToken), ...notFound, ...conflict },
  }),
};
