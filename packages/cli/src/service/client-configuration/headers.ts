import type { Injection } from "@keyward/admin/client";
import { brokenValueRule, headerField, isRefusedHeader, secretNameField } from "@keyward/secrets/fields";
import { isFields } from "./fields.ts";
import { resolvePlaceholders } from "./placeholders.ts";

/** How a header of a client's configuration is imported. */
export type ClientHeader =
  /** The header becomes a secret. */
  | (SecretHeader & { readonly kind: "secret"; readonly value: string; readonly variables: readonly string[] })
  /** The header would become a secret, but its value is not known. */
  | (SecretHeader & { readonly kind: "unset"; readonly reason: string })
  /** The gateway needs no secret for the header. */
  | { readonly kind: "skipped"; readonly header: string; readonly reason: string }
  | {
      readonly kind: "refused";
      /** `null` if the name could be a value. */
      readonly header: string | null;
      readonly reason: string;
      readonly hint: string;
    };

interface SecretHeader {
  /** Also the name of the secret. */
  readonly header: string;
  readonly injection: Injection;
}

// Headers about the client or its request. The gateway forwards each caller's own header, or sends none.
const withoutCredential =
  /^(?:accept|accept-charset|accept-language|cache-control|content-encoding|content-language|content-type|dnt|forwarded|from|if-.*|last-event-id|origin|pragma|priority|referer|sec-.*|traceparent|tracestate|user-agent|via|x-forwarded-.*|x-real-ip|x-request-id)$/;
const credentials: readonly string[] = ["cookie", "proxy-authorization"];
/**
 * The words that may precede a credential. Any other word may be a part of the credential, so it must not be in a rule, which
 * * people can read.
 */
const scheme = /^(bearer|basic|token|apikey|api-key|key) +(\S[\s\S]*)$/i;

/** Decides how each header of one server is imported. No reason contains a value. */
export function clientHeaders(
  given: unknown,
  env: Readonly<Record<string, string | undefined>>,
): readonly ClientHeader[] {
  if (given === undefined) return [];
  if (!isFields(given)) return [refused(null, "The field `headers` is not an object", "Correct the file.")];
  const names = new Set<string>();
  return Object.entries(given).map(([header, value]) => {
    if (!isShown(header))
      return refused(null, "The name of the header is not valid, or looks like a value", `${ofAnother} ${bySet}`);
    const name = header.toLowerCase();
    if (names.has(name)) return refused(header, "The server has the header twice", "Remove one of the two.");
    names.add(name);
    return clientHeader(header, value, env);
  });
}

const ofAnother = "Check that the name and the value are not swapped.";
const bySet = "Set the credential with `keyward secrets set <server> <NAME> --header <name>`.";

function clientHeader(header: string, given: unknown, env: Readonly<Record<string, string | undefined>>): ClientHeader {
  const lower = header.toLowerCase();
  if (credentials.includes(lower)) {
    const hint = "Ask for a credential that the server reads from another header, such as Authorization.";
    return refused(header, "The gateway sends no value in this header", hint);
  }
  if (withoutCredential.test(lower) || isRefusedHeader(lower)) {
    const reason = "The header has no credential. The gateway sends its own, or that of the caller";
    return { kind: "skipped", header, reason };
  }
  if (typeof given !== "string") return refused(header, "The value is not a text", "Correct the file.");
  if (!secretNameField.safeParse(header).success) {
    return refused(header, "The name of the header cannot be the name of a secret", bySet);
  }
  const { text, variables, missing } = resolvePlaceholders(given, env);
  if (text === undefined) {
    const { injection } = ruleOf(header, given.trim());
    return { kind: "unset", header, injection, reason: missing.join(". ") };
  }
  const { injection, value } = ruleOf(header, text.trim());
  const broken = brokenValueRule(value);
  if (broken === undefined) return { kind: "secret", header, injection, value, variables };
  const hint =
    "If the value is not secret, let the clients send the header: `keyward servers set <server> --forward-header <name>`. The command replaces the list of the server, so pass the flag for each header.";
  return refused(header, `The value must be ${broken}`, hint);
}

/**
 * Returns the rule with which the gateway sends a header as the client does, and the value without the text that the rule
 * adds.
 */
function ruleOf(header: string, text: string): { readonly injection: Injection; readonly value: string } {
  const [, word = "", rest = ""] = scheme.exec(text) ?? [];
  if (word === "") return { injection: { kind: "header", header }, value: text };
  if (header.toLowerCase() === "authorization") {
    if (word.toLowerCase() === "bearer") return { injection: { kind: "bearer" }, value: rest };
    const pair = word.toLowerCase() === "basic" ? pairOf(rest) : undefined;
    if (pair !== undefined) return { injection: { kind: "basic" }, value: pair };
  }
  return { injection: { kind: "template", header, template: `${word} {value}` }, value: rest };
}

/** Returns the `user:password` of Basic authentication; `undefined` if the gateway would encode them to another text. */
function pairOf(base64: string): string | undefined {
  const pair = Buffer.from(base64, "base64").toString("utf8");
  return pair.includes(":") && Buffer.from(pair).toString("base64") === base64 ? pair : undefined;
}

/** Returns whether the name of a header can be shown: a valid name that does not look like a value in its place. */
function isShown(header: string): boolean {
  const digits = header.replaceAll(/\D/g, "").length;
  return headerField.safeParse(header).success && /^[A-Za-z_]/.test(header) && (header.length < 16 || digits < 4);
}

function refused(header: string | null, reason: string, hint: string): ClientHeader {
  return { kind: "refused", header, reason, hint };
}
