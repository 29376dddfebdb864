// Messages and hints of the admin API and of `@keyward/secrets` name fields, headers and routes. A person who runs a
// command needs flags and commands instead.
const variableFirst =
  "If the environment variable KEYWARD_TOKEN is set, change or unset the variable, which is used instead of the login.";

const terms: readonly (readonly [term: RegExp, inCommands: string])[] = [
  [/^The request is not valid: the (?:body|query|path|header) field (\S+) /, 'The field "$1" '],
  [/; the (?:body|query|path|header) field (\S+) (?=must |is )/g, '; the field "$1" '],
  [/\bfield "?forwardHeaders(?:\.\d+)?"?/, "flag --forward-header"],
  [/\bfield "?relayHeaders(?:\.\d+)?"?/, "flag --relay-header"],
  [/\bfield "?injection\.(header|template)"?/, "flag --$1"],
  [/\bfield "?(expires|owner|servers|tools|methods)(?:\.\d+)?"?(?=[ ,])/, "flag --$1"],
  [
    /^Correct the fields\. The OpenAPI document of the service has the rule of each field\.$/,
    "Correct the command line. Nothing was changed. `--help` after the command lists its arguments and flags.",
  ],
  [
    /^Send a valid token in the header Authorization: Bearer kwt_…\. An admin can issue a new token\.$/,
    `Run \`keyward login\` with a valid token. ${variableFirst} An admin can make a new one: \`keyward tokens create\`.`,
  ],
  [
    /^Use a token whose role has the right of the route\. GET \/api\/v1\/admin\/whoami shows the role of a token\.$/,
    `Log in with a token whose role may do this: \`keyward login\`, which also prints the role of the token. ${variableFirst} Operators manage workspaces, and admins manage servers, secrets and tokens.`,
  ],
  [
    /^Read the current state, decide whether the change is still right, and repeat the change with the current revision\.$/,
    "Show the server with `keyward servers show`, decide whether the change is still right, and pass its revision.",
  ],
  [
    /^Pass the parsed JSON that `keyward audit anchor` printed, unchanged\.$/,
    "Pass a file that `keyward audit anchor` wrote.",
  ],
];

/** Returns a message or hint of the secrets service in the terms of the command line. */
export function inServiceTerms(text: string): string {
  return terms.reduce((changed, [term, inCommands]) => changed.replace(term, inCommands), text);
}
