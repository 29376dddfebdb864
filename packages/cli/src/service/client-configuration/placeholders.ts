/** A text of a client's configuration after its placeholders were replaced. */
export interface Resolved {
  /** `undefined` if a placeholder has no value. */
  readonly text: string | undefined;
  /** The names of the environment variables whose values are in the text. */
  readonly variables: readonly string[];
  /** Why placeholders have no value, as sentences without a full stop. */
  readonly missing: readonly string[];
}

const placeholder = /\$\{([^{}]*)\}/;
const ofVariable = /^(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([\s\S]*))?$/;
/**
 * The environment variable with the token of the admin who imports the file. It replaces no placeholder, because the author
 * of the file chooses the URLs to which values are sent.
 */
const ownToken = "KEYWARD_TOKEN";
/** Matches the name of an environment variable. Any other text in the braces may be a value, so it is not shown. */
const surelyName = /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$/;

/**
 * Replaces the placeholders that clients replace: `${NAME}`, `${env:NAME}` and `${NAME:-default}` by environment variables.
 * Any other placeholder, such as `${input:id}`, has no value, because only the client knows it. An empty variable counts as
 * not set.
 */
export function resolvePlaceholders(text: string, env: Readonly<Record<string, string | undefined>>): Resolved {
  const variables = new Set<string>();
  const missing = new Set<string>();
  // Every second part is the inside of a placeholder.
  const parts = text.split(placeholder).map((part, index) => {
    if (index % 2 === 0) {
      if (part.includes("${")) missing.add("A placeholder is not closed, or is inside another one");
      return part;
    }
    const [, name, ifMissing] = ofVariable.exec(part) ?? [];
    const value = name !== undefined && name !== ownToken && Object.hasOwn(env, name) ? env[name] : undefined;
    if (name === undefined) missing.add(foreign(part));
    else if (value !== undefined && value !== "") variables.add(name);
    else if (ifMissing === undefined) missing.add(unset(name));
    return value !== undefined && value !== "" ? value : (ifMissing ?? "");
  });
  const isWhole = missing.size === 0;
  return { text: isWhole ? parts.join("") : undefined, variables: [...variables], missing: [...missing] };
}

function foreign(part: string): string {
  return part.startsWith("input:")
    ? "The client asks for the value, so the file does not have the value"
    : "Only the client can replace the placeholder of the value";
}

function unset(name: string): string {
  if (name === ownToken) return `The placeholder names ${ownToken}, which is the login of this command`;
  const shown = surelyName.test(name) ? `variable ${name}` : "variable of the placeholder";
  return `The environment ${shown} is not set`;
}
