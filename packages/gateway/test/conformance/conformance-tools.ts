// What the scenarios of @modelcontextprotocol/conformance ask of a server: tools, resources and prompts with these names and
// answers. `conformance server --scenario … --verbose` says what a scenario expects.
import { setTimeout as sleep } from "node:timers/promises";
import {
  completable,
  fromJsonSchema,
  type InputRequests,
  inputRequired,
  type McpServer,
  ResourceTemplate,
  type ServerContext,
} from "@modelcontextprotocol/server";
import { z } from "zod";
import { type McpEra, requestStates } from "../peers/mcp-server.ts";

/** A picture of one pixel. */
const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/** A sound without samples. */
const wav = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
const pauseMs = 50;

const text = (content: string) => ({ type: "text" as const, text: content });
const texts = (...contents: readonly string[]) => ({ content: contents.map(text) });
const image = { type: "image" as const, data: png, mimeType: "image/png" };
const none = z.object({});

/** Adds what the conformance suite asks of a server. */
export function addConformanceTools(server: McpServer, era: McpEra): void {
  server.server.registerCapabilities({ logging: {}, completions: {} });
  addContentTools(server);
  addStreamingTools(server, era);
  if (era === "legacy") addLegacyRequests(server);
  else addInputRequiredTools(server);
  addResources(server);
  addPrompts(server);
}

function addContentTools(server: McpServer): void {
  const resource = (uri: string, mimeType: string, content: string) => ({
    type: "resource" as const,
    resource: { uri, mimeType, text: content },
  });
  const contents = {
    test_simple_text: [text("This is a simple text response for testing.")],
    test_image_content: [image],
    test_audio_content: [{ type: "audio" as const, data: wav, mimeType: "audio/wav" }],
    test_embedded_resource: [
      resource("test://embedded-resource", "text/plain", "This is an embedded resource content."),
    ],
    test_multiple_content_types: [
      text("Multiple content types test:"),
      image,
      resource("test://mixed-content-resource", "application/json", JSON.stringify({ test: "data", value: 123 })),
    ],
  };
  for (const [name, content] of Object.entries(contents)) {
    server.registerTool(name, { description: "Returns a fixed content", inputSchema: none }, () => ({ content }));
  }
  server.registerTool("test_error_handling", { description: "Fails", inputSchema: none }, () => ({
    ...texts("This tool intentionally returns an error for testing"),
    isError: true,
  }));
  const schema = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    type: "object" as const,
    $defs: {
      address: {
        $anchor: "addressDef",
        type: "object",
        properties: { street: { type: "string" }, city: { type: "string" } },
      },
    },
    properties: {
      name: { type: "string" },
      address: { $ref: "#/$defs/address" },
      contactMethod: { type: "string", enum: ["phone", "email"] },
      phone: { type: "string" },
      email: { type: "string" },
    },
    allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
    if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema.
    then: { required: ["phone"] },
    else: { required: ["email"] },
    additionalProperties: false,
  };
  server.registerTool(
    "json_schema_2020_12_tool",
    { description: "Has keywords of JSON Schema 2020-12", inputSchema: fromJsonSchema(schema) },
    (given) => texts(JSON.stringify(given)),
  );
  // A variable, because the type of a schema does not have the keyword.
  const region = { type: "string" as const, "x-mcp-header": "Region" };
  server.registerTool(
    "test_parameter_header",
    {
      description: "Has an argument that a header repeats",
      inputSchema: fromJsonSchema<{ region: string }>({
        type: "object",
        properties: { region },
        required: ["region"],
      }),
    },
    (given) => texts(given.region),
  );
}

function addStreamingTools(server: McpServer, era: McpEra): void {
  const withLogging = async (_: unknown, { mcpReq }: ServerContext) => {
    for (const message of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
      await mcpReq.log("info", message);
      await sleep(pauseMs);
    }
    return texts("Logged three messages");
  };
  for (const name of ["test_tool_with_logging", "test_logging_tool"]) {
    server.registerTool(name, { description: "Sends messages for the log", inputSchema: none }, withLogging);
  }
  server.registerTool(
    "test_tool_with_progress",
    { description: "Reports its progress", inputSchema: none },
    async (_, { mcpReq }) => {
      const progressToken = mcpReq._meta?.progressToken;
      for (const progress of [0, 50, 100]) {
        if (progressToken !== undefined) {
          await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: 100 } });
        }
        await sleep(pauseMs);
      }
      return texts(String(progressToken));
    },
  );
  server.registerTool(
    "test_reconnection",
    { description: "Closes its stream before it answers", inputSchema: none },
    async (_, { http }) => {
      http?.closeSSE?.();
      await sleep(2 * pauseMs);
      return texts("Answered after the stream was closed");
    },
  );
  server.registerTool(
    "test_sampling",
    { description: "Asks the model of the client", inputSchema: z.object({ prompt: z.string() }) },
    async ({ prompt }, { mcpReq }) => {
      const request = { messages: [{ role: "user" as const, content: text(prompt) }], maxTokens: 100 };
      if (era === "modern") return asked(mcpReq, { answer: inputRequired.createMessage(request) });
      const { content } = await mcpReq.requestSampling(request, { relatedRequestId: mcpReq.id });
      return texts(`LLM response: ${JSON.stringify(content)}`);
    },
  );
  const elicitations = {
    test_elicitation: {
      username: { type: "string", description: "User's response" },
      email: { type: "string", description: "User's email address" },
    },
    test_elicitation_sep1034_defaults: {
      name: { type: "string", default: "John Doe" },
      age: { type: "integer", default: 30 },
      score: { type: "number", default: 95.5 },
      status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
      verified: { type: "boolean", default: true },
    },
    test_elicitation_sep1330_enums: {
      untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
      titledSingle: { type: "string", oneOf: titled("value1", "value2", "value3") },
      legacyEnum: {
        type: "string",
        enum: ["opt1", "opt2", "opt3"],
        enumNames: ["Option One", "Option Two", "Option Three"],
      },
      untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
      titledMulti: { type: "array", items: { anyOf: titled("value1", "value2", "value3") } },
    },
  } as const;
  for (const [name, properties] of Object.entries(elicitations)) {
    server.registerTool(
      name,
      { description: "Asks the user", inputSchema: z.object({ message: z.string().default("Please answer") }) },
      async ({ message }, { mcpReq }) => {
        const request = requestedSchema.parse({ message, requestedSchema: { type: "object", properties } });
        if (era === "modern") return asked(mcpReq, { answer: inputRequired.elicit(request) });
        const { action, content } = await mcpReq.elicitInput(request, { relatedRequestId: mcpReq.id });
        return texts(`Elicitation completed: action=${action}, content=${JSON.stringify(content ?? {})}`);
      },
    );
  }
}

/** Asks with the answer, and is called again. */
function asked(mcpReq: ServerContext["mcpReq"], inputRequests: InputRequests) {
  const responses = mcpReq.inputResponses ?? {};
  const isComplete = Object.keys(inputRequests).every((key) => responses[key] !== undefined);
  return isComplete ? texts(JSON.stringify(responses)) : inputRequired({ inputRequests });
}

function addLegacyRequests({ server }: McpServer): void {
  server.setRequestHandler("resources/subscribe", () => ({}));
  server.setRequestHandler("resources/unsubscribe", () => ({}));
}

const elicit = (message: string, properties: Record<string, { type: "string" | "boolean" }>) =>
  inputRequired.elicit(
    requestedSchema.parse({
      message,
      requestedSchema: { type: "object", properties, required: Object.keys(properties) },
    }),
  );
const requestedSchema = z.object({
  message: z.string(),
  requestedSchema: z.looseObject({ type: z.literal("object"), properties: z.record(z.string(), z.any()) }),
});
const askName = () => elicit("What is your name?", { name: { type: "string" } });
const askModel = (question: string) =>
  inputRequired.createMessage({ messages: [{ role: "user", content: text(question) }], maxTokens: 100 });

/** The tools of SEP-2322: a server asks with its answer. */
function addInputRequiredTools(server: McpServer): void {
  const tools: Record<string, () => InputRequests> = {
    test_input_required_result_elicitation: () => ({ user_name: askName() }),
    test_input_required_result_sampling: () => ({ capital_question: askModel("What is the capital of France?") }),
    test_input_required_result_list_roots: () => ({ client_roots: inputRequired.listRoots() }),
    test_missing_capability: () => ({ capital_question: askModel("What is the capital of France?") }),
    test_streaming_elicitation: () => ({ user_name: askName() }),
    test_input_required_result_capabilities: () => ({ capital_question: askModel("What is the capital of France?") }),
  };
  for (const [name, requests] of Object.entries(tools)) {
    server.registerTool(name, { description: "Asks the client", inputSchema: none }, (_, { mcpReq }) =>
      asked(mcpReq, requests()),
    );
  }
  const withState: Record<string, () => InputRequests> = {
    test_input_required_result_request_state: () => ({
      confirm: elicit("Please confirm", { ok: { type: "boolean" } }),
    }),
    test_input_required_result_tampered_state: () => ({
      confirm: elicit("Please confirm", { ok: { type: "boolean" } }),
    }),
    test_input_required_result_multiple_inputs: () => ({
      user_name: askName(),
      greeting: askModel("Generate a greeting"),
      client_roots: inputRequired.listRoots(),
    }),
  };
  for (const [name, requests] of Object.entries(withState)) {
    server.registerTool(
      name,
      { description: "Asks the client, with a state", inputSchema: none },
      async (_, { mcpReq }) => {
        const state = mcpReq.requestState<string>();
        if (state !== undefined) return texts(`state-ok: ${state} ${JSON.stringify(mcpReq.inputResponses)}`);
        return inputRequired({ inputRequests: requests(), requestState: await requestStates.mint("asked") });
      },
    );
  }
  server.registerTool(
    "test_input_required_result_multi_round",
    { description: "Asks the client twice", inputSchema: none },
    async (_, { mcpReq }) => {
      const state = mcpReq.requestState<string>();
      if (state === "second") return texts("Both steps are complete");
      const isFirst = state === undefined;
      const inputRequests: InputRequests = isFirst
        ? { step1: elicit("Step 1: What is your name?", { name: { type: "string" } }) }
        : { step2: elicit("Step 2: What is your favorite color?", { color: { type: "string" } }) };
      return inputRequired({ inputRequests, requestState: await requestStates.mint(isFirst ? "first" : "second") });
    },
  );
  server.registerPrompt(
    "test_input_required_result_prompt",
    { description: "Asks the client" },
    ({ mcpReq }: ServerContext) =>
      mcpReq.inputResponses?.["user_context"] === undefined
        ? inputRequired({
            inputRequests: {
              user_context: elicit("What context should the prompt use?", { context: { type: "string" } }),
            },
          })
        : { messages: [{ role: "user" as const, content: text(JSON.stringify(mcpReq.inputResponses)) }] },
  );
}

function titled(...values: readonly string[]) {
  return values.map((value) => ({ const: value, title: `The ${value}` }));
}

function addResources(server: McpServer): void {
  const description = "A resource for tests";
  server.registerResource("text", "test://static-text", { description, mimeType: "text/plain" }, ({ href }) => ({
    contents: [{ uri: href, mimeType: "text/plain", text: "This is the content of the static text resource." }],
  }));
  server.registerResource("binary", "test://static-binary", { description, mimeType: "image/png" }, ({ href }) => ({
    contents: [{ uri: href, mimeType: "image/png", blob: png }],
  }));
  server.registerResource(
    "watched",
    "test://watched-resource",
    { description, mimeType: "text/plain" },
    ({ href }) => ({
      contents: [{ uri: href, mimeType: "text/plain", text: "watched" }],
    }),
  );
  server.registerResource(
    "template",
    new ResourceTemplate("test://template/{id}/data", { list: undefined }),
    { description, mimeType: "application/json" },
    ({ href }, { id }) => ({
      contents: [
        {
          uri: href,
          mimeType: "application/json",
          text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${String(id)}` }),
        },
      ],
    }),
  );
}

function addPrompts(server: McpServer): void {
  const description = "A prompt for tests";
  const user = (content: ReturnType<typeof text> | typeof image) => ({ role: "user" as const, content });
  server.registerPrompt("test_simple_prompt", { description }, () => ({
    messages: [user(text("This is a simple prompt for testing."))],
  }));
  const complete = (given: string) => ["paris", "park", "party"].filter((value) => value.startsWith(given));
  const argsSchema = z.object({ arg1: completable(z.string(), complete), arg2: z.string() });
  server.registerPrompt("test_prompt_with_arguments", { description, argsSchema }, ({ arg1, arg2 }) => ({
    messages: [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  }));
  server.registerPrompt(
    "test_prompt_with_embedded_resource",
    { description, argsSchema: z.object({ resourceUri: z.string() }) },
    ({ resourceUri }) => ({
      messages: [
        {
          role: "user",
          content: {
            type: "resource",
            resource: { uri: resourceUri, mimeType: "text/plain", text: "Embedded resource content for testing." },
          },
        },
        user(text("Please process the embedded resource above.")),
      ],
    }),
  );
  server.registerPrompt("test_prompt_with_image", { description }, () => ({
    messages: [user(image), user(text("Please analyze the image above."))],
  }));
}
