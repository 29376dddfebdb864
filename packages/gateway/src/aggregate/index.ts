export { WorkspaceEndpoint, type WorkspaceEndpointOptions } from "./workspace-endpoint.ts";
