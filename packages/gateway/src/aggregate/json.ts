/** A value of JSON. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;

/** An object of JSON. */
export type JsonObject = { readonly [name: string]: Json };

/** Returns true for an object, and false for an array. */
export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !isArray(value);
}

/** Returns the member `name` of `value` if it is an object. Otherwise returns an empty object. */
export function objectIn(value: Json | undefined, name: string): JsonObject {
  const member = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return isObject(member) ? member : {};
}

/** Returns the member `name` of `value` if it is a string. Otherwise returns `undefined`. */
export function textIn(value: Json | undefined, name: string): string | undefined {
  const member = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return typeof member === "string" ? member : undefined;
}

/** Returns the member `name` of `value` if it is an array. Otherwise returns an empty array. */
export function arrayIn(value: Json | undefined, name: string): readonly Json[] {
  const member = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return isArray(member) ? member : [];
}

/** Parses JSON. @throws SyntaxError. */
export function parseJson(text: string): Json {
  return JSON.parse(text);
}

/** Returns whether a text is JSON. */
export function isJson(text: string): boolean {
  try {
    parseJson(text);
    return true;
  } catch {
    return false;
  }
}

function isArray(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}
