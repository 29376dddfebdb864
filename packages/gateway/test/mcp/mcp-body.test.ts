import fc from "fast-check";
import { expect, it } from "vitest";
import { type McpHeaders, type McpMessage, McpRefusedError, readMcpBody } from "../../src/mcp/index.ts";

const read = (body: unknown, headers?: McpHeaders): McpMessage =>
  readMcpBody(Buffer.from(typeof body === "string" ? body : JSON.stringify(body)), headers);

/** Returns the code with which a body is refused. */
function refusal(body: string | Uint8Array, headers?: McpHeaders): string {
  try {
    return `read ${JSON.stringify(readMcpBody(Buffer.from(body), headers))}`;
  } catch (error) {
    if (error instanceof McpRefusedError) return error.code;
    throw error;
  }
}

it.each<[string, McpMessage]>([
  [
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"name":"other","a":[{}]}}}',
    { method: "tools/call", tool: "echo", id: 1, isNotification: false },
  ],
  [
    ' {"params" : {"arguments":null, "name":"\\u0065cho"}, "method": "tools\\/call", "id": "a-1"}\n',
    { method: "tools/call", tool: "echo", id: "a-1", isNotification: false },
  ],
  [
    '{"jsonrpc":"2.0","method":"notifications/initialized"}',
    { method: "notifications/initialized", tool: undefined, id: undefined, isNotification: true },
  ],
  [
    '{"jsonrpc":"2.0","id":0,"method":"prompts/get","params":{"name":"greet"}}',
    { method: "prompts/get", tool: undefined, id: 0, isNotification: false },
  ],
  [
    '{"jsonrpc":"2.0","id":"s","result":{"method":"tools/call"}}',
    { method: undefined, tool: undefined, id: "s", isNotification: false },
  ],
  [
    '{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"no"}}',
    { method: undefined, tool: undefined, id: 2, isNotification: false },
  ],
  ['{"id":1,"method":"ping","params":null}', { method: "ping", tool: undefined, id: 1, isNotification: false }],
  ['{"id":1,"method":"x","params":{"name":{"a":1}}}', { method: "x", tool: undefined, id: 1, isNotification: false }],
])("readMcpBody reads %s", (body, message) => {
  expect(read(body)).toEqual(message);
});

it("readMcpBody reads the same method, tool and id as JSON.parse", () => {
  const params = fc.record(
    {
      name: fc.string({ unit: "grapheme" }),
      arguments: fc.jsonValue(),
      _meta: fc.dictionary(fc.string(), fc.jsonValue()),
    },
    { requiredKeys: ["name"] },
  );
  const message = fc.record({
    jsonrpc: fc.constant("2.0"),
    id: fc.oneof(fc.integer(), fc.string({ unit: "grapheme" })),
    method: fc.oneof(fc.constantFrom("tools/call", "tools/list", "prompts/get"), fc.string({ unit: "grapheme" })),
    params,
  });
  fc.assert(
    fc.property(message, fc.nat(4), (given, space) => {
      const text = JSON.stringify(given, undefined, space);
      const { method, id } = JSON.parse(text);
      const tool = method === "tools/call" ? given.params.name : undefined;
      expect(read(text)).toEqual({ method, tool, id, isNotification: false });
    }),
    { numRuns: 2_000 },
  );
});

it.each([
  ["", "BODY_INVALID"],
  ["{", "BODY_INVALID"],
  ['{"method":"ping"} {}', "BODY_INVALID"],
  ['\ufeff{"method":"ping"}', "BODY_INVALID"],
  ['{"method":"ping","params":{"a":01}}', "BODY_INVALID"],
  [Uint8Array.from([...Buffer.from('{"method":"'), 0xff, ...Buffer.from('"}')]), "BODY_INVALID"],
  // An overlong form of `/`.
  [Uint8Array.from([...Buffer.from('{"method":"tools'), 0xc0, 0xaf, ...Buffer.from('call"}')]), "BODY_INVALID"],
  ['[{"method":"ping"}]', "BATCH_REFUSED"],
  ["[]", "BATCH_REFUSED"],
  ['"ping"', "MESSAGE_INVALID"],
  ["null", "MESSAGE_INVALID"],
  ["{}", "MESSAGE_INVALID"],
  ['{"id":1}', "MESSAGE_INVALID"],
  ['{"result":{}}', "MESSAGE_INVALID"],
  ['{"id":1,"method":"ping","result":{}}', "MESSAGE_INVALID"],
  ['{"id":1,"method":7}', "MESSAGE_INVALID"],
  ['{"id":1,"method":null}', "MESSAGE_INVALID"],
  ['{"id":null,"method":"ping"}', "MESSAGE_INVALID"],
  ['{"id":{},"method":"ping"}', "MESSAGE_INVALID"],
  ['{"id":1e999,"method":"ping"}', "MESSAGE_INVALID"],
  ['{"id":1,"method":"tools/call"}', "MESSAGE_INVALID"],
  ['{"id":1,"method":"tools/call","params":{"name":["echo"]}}', "MESSAGE_INVALID"],
  ['{"id":1,"method":"tools/call","params":["echo"]}', "MESSAGE_INVALID"],
  ['{"id":1,"method":"tools/call","params":{"name":"\\ud800"}}', "MESSAGE_INVALID"],
])("readMcpBody refuses %j", (body, code) => {
  expect(refusal(body)).toBe(code);
});

it.each([
  '{"id":1,"method":"tools/list","method":"tools/call","params":{"name":"echo"}}',
  '{"id":1,"method":"tools/list","m\\u0065thod":"tools/call"}',
  '{"id":1,"id":2,"method":"ping"}',
  '{"id":1,"method":"ping","params":{},"params":{}}',
  '{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}',
  '{"id":1,"method":"tools/call","params":{"name":"a","\\u006eame":"b"}}',
  '{"id":1,"method":"resources/read","params":{"uri":"a","uri":"b"}}',
  '{"id":1,"method":"ping","x":1,"x":1}',
  // Go reads keys in any case.
  '{"id":1,"method":"tools/list","Method":"tools/call"}',
  '{"id":1,"Method":"tools/call","params":{"name":"a"}}',
  '{"id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}',
  '{"id":1,"method":"tools/call","params":{"name":"a"},"PARAMS":{"name":"b"}}',
  '{"id":1,"method":"tools/call","params":{"name":"a"},"param\u017f":{"name":"b"}}',
  '{"id":1,"method":"tasks/get","params":{"tas\u212aId":"b"}}',
  // Decoders put the same character in the place of different halves.
  '{"id":1,"method":"ping","\\ud800":1,"\\ud801":1}',
])("readMcpBody refuses the keys of %s", (body) => {
  expect(refusal(body)).toBe("KEY_AMBIGUOUS");
});

it("accepts repeated keys in the arguments of a tool", () => {
  const body = '{"id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"X":2,"x":3,"method":"m"}}}';
  expect(read(body).tool).toBe("a");
});

it("refuses a body with more than 64 levels, and reads one with 64", () => {
  // The message and its params are two levels.
  const nested = (levels: number) => `{"method":"x","params":{"a":${"[".repeat(levels)}${"]".repeat(levels)}}}`;
  expect(read(nested(62)).method).toBe("x");
  expect(refusal(nested(63))).toBe("BODY_TOO_DEEP");
  expect(refusal(`{"a":${"[".repeat(2_000_000)}`)).toBe("BODY_TOO_DEEP");
});

it("refuses a body of more than 4 MiB, and one with too many keys", () => {
  const padded = (bytes: number) => `{"method":"x"}${" ".repeat(bytes - 14)}`;
  expect(read(padded(4 * 1024 * 1024)).method).toBe("x");
  expect(refusal(padded(4 * 1024 * 1024 + 1))).toBe("BODY_TOO_LARGE");
  const keys = (count: number) => Array.from({ length: count }, (_, index) => `"k${index}":0`).join(",");
  expect(read(`{"method":"x",${keys(999)}}`).method).toBe("x");
  expect(refusal(`{"method":"x",${keys(1_000)}}`)).toBe("MESSAGE_INVALID");
  expect(refusal(`{"method":"x","params":{${keys(1_001)}}}`)).toBe("MESSAGE_INVALID");
});

const call = '{"id":1,"method":"tools/call","params":{"name":"get_weather"}}';
const resource = '{"id":1,"method":"resources/read","params":{"uri":"file:///a b","name":"decoy"}}';
const encode = (text: string) => `=?base64?${Buffer.from(text).toString("base64")}?=`;
const named = (name: string) => JSON.stringify({ id: 1, method: "tools/call", params: { name } });

it.each([
  [call, { method: "tools/call", name: "get_weather" }],
  [call, { method: "tools/call", name: encode("get_weather") }],
  [call, { method: "tools/call" }],
  [call, {}],
  [resource, { method: "resources/read", name: "file:///a b" }],
  ['{"id":1,"method":"tasks/get","params":{"taskId":"t1"}}', { method: "tasks/get", name: "t1" }],
  ['{"id":1,"method":"resources/subscribe","params":{"uri":"u"}}', { method: "resources/subscribe", name: "u" }],
  ['{"method":"notifications/cancelled"}', { method: "notifications/cancelled" }],
  // The examples of the specification.
  [named("Hello, 世界"), { name: "=?base64?SGVsbG8sIOS4lueVjA==?=" }],
  [named(" padded "), { name: "=?base64?IHBhZGRlZCA=?=" }],
  [named("line1\nline2"), { name: "=?base64?bGluZTEKbGluZTI=?=" }],
  [named("=?base64?literal?="), { name: "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=" }],
  [named("=?BASE64?eA==?="), { name: "=?BASE64?eA==?=" }],
])("readMcpBody accepts the body %s with the headers %j", (body, headers) => {
  expect(refusal(body, headers)).toMatch(/^read /);
});

it.each([
  [call, { method: "tools/list" }],
  [call, { method: "Tools/Call" }],
  [call, { method: "" }],
  [call, { method: "tools/call, tools/call" }],
  [call, { name: "other" }],
  [call, { name: "" }],
  [call, { name: "get_weather, get_weather" }],
  [call, { name: encode("other") }],
  [call, { name: "=?base64?Z2V0X3dlYXRoZXI?=" }],
  [call, { name: "=?base64?Z2V0X3dlYXRoZXI=?= " }],
  [named(""), { name: "=?base64?!!!!?=" }],
  [named("\ufffd"), { name: "=?base64?/w==?=" }],
  [named("é"), { name: "é" }],
  [named("=?base64?eA==?="), { name: "=?base64?eA==?=" }],
  [resource, { name: "decoy" }],
  ['{"id":1,"method":"tools/list"}', { name: "get_weather" }],
  ['{"id":1,"method":"resources/read","params":{"uri":7}}', { name: "7" }],
  ['{"id":1,"result":{}}', { method: "tools/call" }],
])("readMcpBody refuses the body %s with the headers %j", (body, headers) => {
  expect(refusal(body, headers)).toBe("HEADER_MISMATCH");
});

it("an error of readMcpBody contains no text of the body", () => {
  const bodies = ['{"method":"kwt_secret","method":1}', '{"method":"kwt_secret",kwt_secret}', '{"kwt_secret":1}'];
  for (const body of [...bodies, call.replace("get_weather", "kwt_secret")]) {
    expect(() => read(body, { name: "kwt_other" })).toThrow(/^(?!.*kwt_).+$/);
  }
});
