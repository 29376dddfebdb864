import type { z } from "zod";
import { AdminApiError } from "./client-error.ts";
import { problem } from "./schemas/problem-schemas.ts";

const apiPath = "/api/v1/admin";
// A page has at most 100 items of a few KiB each.
const maxAnswerBytes = 8 * 1024 * 1024;
const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/;

/** The options of {@link AdminClient}. */
export interface AdminClientOptions {
  /** The URL of the service, such as `https://keyward.example.com`, without `/api/v1/admin`. */
  readonly url: string;
  /** The text of a token. */
  readonly token: string;
  /** Sends the requests. Default: the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch | undefined;
  /** For how long a request may take, in milliseconds. Default: 30,000. */
  readonly timeoutMs?: number | undefined;
  /** Allows plain HTTP to another machine, where anyone on the network path can read the token. Default: false. */
  readonly allowPlainHttp?: boolean | undefined;
}

/** A request that {@link AdminClient} sends to the service. */
export interface ClientRequest {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** The parts of the path below `/api/v1/admin`, without percent-encoding. */
  readonly path: readonly string[];
  readonly query?: Readonly<Record<string, string | number | undefined>> | undefined;
  readonly body?: unknown;
  readonly ifRevision?: number | undefined;
}

/** Sends the requests of {@link AdminClient} and checks the answers. */
export class ClientTransport {
  readonly #url: string;
  readonly #authorization: string;
  readonly #fetch: typeof globalThis.fetch;
  readonly #timeoutMs: number;

  constructor({ url, token, fetch, timeoutMs = 30_000, allowPlainHttp = false }: AdminClientOptions) {
    this.#url = requireServiceUrl(url, allowPlainHttp);
    if (typeof token !== "string" || !/^[\x21-\x7e]{1,256}$/.test(token)) {
      throw misconfigured(
        'The option "token" of AdminClient is not a token',
        "Pass the whole text of one token and nothing else. It begins with kwt_.",
      );
    }
    if (!Number.isSafeInteger(timeoutMs) || timeoutMs < 1 || timeoutMs > 2 ** 31 - 1) {
      throw misconfigured(
        'The option "timeoutMs" of AdminClient is not a number of milliseconds',
        "Pass a whole number from 1 to 2147483647.",
      );
    }
    this.#authorization = `Bearer ${token}`;
    // Wrapped in a function, because a browser refuses to call fetch as a method of another object.
    this.#fetch = (input, init) => (fetch ?? globalThis.fetch)(input, init);
    this.#timeoutMs = timeoutMs;
  }

  /** Sends a request, and returns the answer's body if `schema` accepts it. */
  async send<Schema extends z.ZodType>(request: ClientRequest, schema: Schema): Promise<z.infer<Schema>> {
    const { status, text, requestId } = await this.#exchange(request);
    const checked = schema.safeParse(parseJson(text));
    if (checked.success) return checked.data;
    // Names only the fields: a message of the schema could quote the answer, which may contain a new token.
    const places = checked.error.issues.slice(0, 3).map(({ path }) => path.map(String).join(".") || "the whole body");
    throw new AdminApiError(
      "ANSWER_INVALID",
      `${this.#url} sent an answer that does not match the admin API (${places.join(", ")})`,
      {
        status,
        requestId,
        hint: "Check the URL of the service. Use the same release of Keyward for the client and the service.",
      },
    );
  }

  /** Sends a request whose answer has no body. */
  async sendWithoutAnswer(request: ClientRequest): Promise<void> {
    await this.#exchange(request);
  }

  async #exchange({ method, path, query = {}, body, ifRevision }: ClientRequest) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) parameters.set(name, String(value));
    }
    const search = parameters.size === 0 ? "" : `?${parameters}`;
    const headers = new Headers({ authorization: this.#authorization, accept: "application/json" });
    if (body !== undefined) headers.set("content-type", "application/json");
    if (ifRevision !== undefined) headers.set("if-match", `"${ifRevision}"`);
    // In a URL, such a segment would lead to another route.
    if (path.some((segment) => segment === "" || segment === "." || segment === "..")) {
      throw new AdminApiError("FIELD_INVALID", "A name in the path of the request is empty, `.` or `..`", {
        status: undefined,
        hint: "Correct the name. No request was sent.",
      });
    }
    const target = `${this.#url}${apiPath}/${path.map(encodeURIComponent).join("/")}${search}`;
    const signal = AbortSignal.timeout(this.#timeoutMs);
    let response: Response;
    let text: string | undefined;
    try {
      response = await this.#fetch(target, {
        method,
        headers,
        // A redirect could lead to a host that must not see the token.
        redirect: "manual",
        signal,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      text = await boundedText(response);
    } catch (error) {
      throw this.#unreachable(error, signal.aborted);
    }
    if (text === undefined) {
      throw new AdminApiError("ANSWER_INVALID", `${this.#url} sent more than ${maxAnswerBytes} bytes`, {
        status: response.status,
        hint: "Check that the URL belongs to the admin API.",
      });
    }
    if (!response.ok) throw this.#refused(response, text);
    return { status: response.status, text, requestId: response.headers.get("x-request-id") ?? undefined };
  }

  #refused(response: Response, text: string): AdminApiError {
    const { status } = response;
    const retryAfter = response.headers.get("retry-after");
    const retryAfterSeconds = retryAfter !== null && /^\d{1,9}$/.test(retryAfter) ? Number(retryAfter) : undefined;
    const checked = problem.safeParse(parseJson(text));
    if (!checked.success) {
      return new AdminApiError("ANSWER_INVALID", `${this.#url} answered ${status} without problem details`, {
        status,
        retryAfterSeconds,
        hint: "Check that the URL belongs to the admin API, and that no proxy answered instead of it.",
      });
    }
    const { type, code, detail, hint, instance } = checked.data;
    // The gateway also answers with problem details. Its hint would make the reader search for a mistake in the path.
    if (type.startsWith("docs/calls.md#")) {
      return new AdminApiError("ANSWER_INVALID", `${this.#url} is the gateway for calls, and not the admin API`, {
        status,
        retryAfterSeconds,
        hint: "Use the URL of the admin API, which has another port. `keyward gateway start` prints both URLs when the service starts.",
      });
    }
    return new AdminApiError(this.#printable(code), this.#printable(detail), {
      status,
      hint: this.#printable(hint),
      requestId: this.#printable(instance),
      retryAfterSeconds,
    });
  }

  #unreachable(error: unknown, timedOut: boolean): AdminApiError {
    const code = systemCode(error);
    const how = timedOut
      ? `did not answer within ${this.#timeoutMs} ms`
      : `cannot be reached${code === undefined ? "" : ` (${code})`}`;
    return new AdminApiError("SERVICE_UNREACHABLE", `${this.#url} ${how}`, {
      status: undefined,
      hint: "Check the URL, and that the service is running. If the request was a change, read whether it was made.",
    });
  }

  /** Removes control characters and the token from a text of the service, because a hostile service could send them. */
  #printable(text: string): string {
    const token = this.#authorization.slice("Bearer ".length);
    return text.replaceAll(token, "REDACTED").replace(/[\p{Cc}\p{Cf}]/gu, " ");
  }
}

function requireServiceUrl(url: string, allowPlainHttp: boolean): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol)) {
    throw misconfigured(
      'The option "url" of AdminClient is not a URL that begins with http:// or https://',
      "Pass a URL such as https://keyward.example.com.",
    );
  }
  if (parsed.username !== "" || parsed.password !== "" || parsed.search !== "" || parsed.hash !== "") {
    throw misconfigured(
      'The option "url" of AdminClient has a user, a password, a query or a fragment',
      "Pass only the address of the service, such as https://keyward.example.com.",
    );
  }
  if (parsed.protocol === "http:" && !loopback.test(parsed.hostname) && !allowPlainHttp) {
    throw misconfigured(
      'The option "url" of AdminClient is plain HTTP to another machine, so anyone on the network path could read the token',
      "Pass a URL that begins with https://.",
    );
  }
  return parsed.href.replace(/\/+$/, "");
}

function misconfigured(message: string, hint: string): AdminApiError {
  return new AdminApiError("OPTION_INVALID", message, { status: undefined, hint });
}

/** Returns the body as text; `undefined` if the body has more than {@link maxAnswerBytes} bytes. */
async function boundedText(response: Response): Promise<string | undefined> {
  if (response.body === null) return "";
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of response.body) {
    bytes += piece.byteLength;
    if (bytes > maxAnswerBytes) return undefined;
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Returns the code of a system error, such as ECONNREFUSED. The message is not used, because it could quote headers. */
function systemCode(error: unknown): string | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ("code" in at && typeof at.code === "string" && /^[A-Z0-9_]{1,40}$/.test(at.code)) return at.code;
  }
  return undefined;
}
