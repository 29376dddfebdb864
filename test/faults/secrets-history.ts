import type { CallEvent, ServiceChangeEvent, ServiceEvent, Span } from "./secrets-events.ts";

/** One write of a register: when the operation took place, and the value that the register has after it. */
interface Write {
  readonly span: Span;
  readonly value: string | undefined;
}

/** Codes with which any operation may fail, whatever other processes do. */
const alwaysAllowed: ReadonlySet<string> = new Set(["STORE_UNAVAILABLE"]);

/**
 * Checks the events of several concurrent processes, and returns the problems. A read may return a value if the write of
 * this value began before the read ended, unless the value was overwritten before the read. A value counts as overwritten
 * if another write began after the write of this value had ended, and was acknowledged before the read began.
 *
 * @param options.mayFail true if the store may have been unreachable. Then an operation that failed may have taken effect.
 */
export function problemsIn(
  events: readonly ServiceEvent[],
  { mayFail = false }: { readonly mayFail?: boolean } = {},
): readonly string[] {
  return new History(events, mayFail).check();
}

class History {
  readonly #events: readonly ServiceEvent[];
  readonly #mayFail: boolean;
  readonly #registers = new Map<string, Write[]>();
  readonly #secrets = new Map<string, Set<string>>();
  /** The spans of the sets, by value. */
  readonly #sets = new Map<string, Span>();
  readonly #problems: string[] = [];

  constructor(events: readonly ServiceEvent[], mayFail: boolean) {
    this.#events = events;
    this.#mayFail = mayFail;
    for (const event of events) if (event.kind !== "call") this.#note(event);
  }

  check(): readonly string[] {
    for (const event of this.#events) {
      if (event.ended === undefined) continue;
      if (event.code !== undefined && this.#mayFail && alwaysAllowed.has(event.code)) continue;
      const problem = event.kind === "call" ? this.#problemOfCall(event) : this.#problemOfChange(event);
      if (problem !== undefined) this.#problems.push(`${problem}: ${JSON.stringify(event)}`);
    }
    return this.#problems;
  }

  #note(event: ServiceChangeEvent): void {
    const isUncertain = event.code !== undefined && this.#mayFail && alwaysAllowed.has(event.code);
    if (event.code !== undefined && !isUncertain) return;
    const span: Span = isUncertain ? { began: event.began } : event;
    switch (event.kind) {
      case "create server":
      case "change URL":
        this.#write(`url ${event.slug}`, { span, value: event.url });
        if (event.kind === "create server") this.#forget(event.slug, span);
        break;
      case "delete server":
        this.#write(`url ${event.slug}`, { span, value: undefined });
        this.#forget(event.slug, span);
        break;
      case "delete all secrets":
        this.#forget(event.slug, span);
        break;
      case "set":
        this.#secretsOf(event.slug).add(event.name);
        this.#sets.set(event.value, span);
        this.#write(`secret ${event.slug} ${event.name}`, { span, value: event.value });
        break;
      case "delete secret":
        this.#write(`secret ${event.slug} ${event.name}`, { span, value: undefined });
        break;
      case "create token":
        this.#write(`token ${event.token}`, { span, value: "valid" });
        break;
      case "revoke token":
        this.#write(`token ${event.token}`, { span, value: undefined });
        break;
    }
  }

  /** Notes that a server has no secrets after an operation. Names that only later operations set have no writes yet. */
  #forget(slug: string, span: Span): void {
    this.#write(`secret ${slug} *`, { span, value: undefined });
  }

  #problemOfCall(call: CallEvent): string | undefined {
    const { code, slug, token, url = "", values = {} } = call;
    if (code === "TOKEN_REFUSED") {
      return this.#may(`token ${token}`, undefined, call) ? undefined : "a valid token was refused";
    }
    if (!this.#may(`token ${token}`, "valid", call)) return "a token was accepted that was revoked before the call";
    if (code === "SERVER_NOT_FOUND") {
      return this.#may(`url ${slug}`, undefined, call) ? undefined : "a server was missing";
    }
    if (code === "SECRET_UNUSABLE") return this.#mayBeUnusable(call) ? undefined : "a call was refused";
    if (code !== undefined) return "a call failed";
    if (!this.#may(`url ${slug}`, url, call)) return "a call was sent to a URL that the server did not have";
    for (const name of new Set([...this.#secretsOf(slug), ...Object.keys(values)])) {
      const value = values[name];
      if (!this.#may(`secret ${slug} ${name}`, value, call)) {
        return value === undefined ? `the value of ${name} was lost` : `the value of ${name} was superseded or revived`;
      }
      if (value !== undefined && !this.#originsOf(slug, value).has(new URL(url).origin)) {
        return `the value of ${name} was sent to an origin for which it was not set`;
      }
    }
    return undefined;
  }

  #problemOfChange(event: ServiceChangeEvent): string | undefined {
    const mayBeMissing = (register: string) => this.#may(register, undefined, event);
    switch (event.code) {
      case undefined:
        return undefined;
      case "SERVER_NOT_FOUND":
        return "slug" in event && mayBeMissing(`url ${event.slug}`) ? undefined : "a server was missing";
      case "SERVER_EXISTS":
        return "slug" in event && this.#mayBeAny(`url ${event.slug}`, event) ? undefined : "a server was not created";
      case "SECRET_NOT_FOUND":
        return "name" in event && mayBeMissing(`secret ${event.slug} ${event.name}`)
          ? undefined
          : "a secret was missing";
      default:
        return "an operation failed";
    }
  }

  /** Returns whether a value of the server may have been set for another origin than the URL has during a call. */
  #mayBeUnusable(call: CallEvent): boolean {
    const origins = this.#possible(`url ${call.slug}`, call).flatMap(({ value }) => value ?? []);
    return [...this.#secretsOf(call.slug)].some((name) =>
      this.#possible(`secret ${call.slug} ${name}`, call).some(
        ({ value }) =>
          value !== undefined &&
          [...this.#originsOf(call.slug, value)].some((origin) =>
            origins.some((url) => new URL(url).origin !== origin),
          ),
      ),
    );
  }

  /** Returns the origins that the server may have had while a value was set. */
  #originsOf(slug: string, value: string): ReadonlySet<string> {
    const set = this.#sets.get(value);
    const urls = set === undefined ? [] : this.#possible(`url ${slug}`, set).flatMap((write) => write.value ?? []);
    return new Set(urls.map((url) => new URL(url).origin));
  }

  #may(register: string, value: string | undefined, read: Span): boolean {
    return this.#possible(register, read).some((write) => write.value === value);
  }

  #mayBeAny(register: string, read: Span): boolean {
    return this.#possible(register, read).some(({ value }) => value !== undefined);
  }

  /** Returns the writes whose value a read of a register may return. */
  #possible(register: string, { began, ended = Number.POSITIVE_INFINITY }: Span): readonly Write[] {
    const all = this.#writesOf(register);
    // Of the writes that ended before the read began, a read may return the write that began last, and writes that overlap with it.
    let floor = Number.NEGATIVE_INFINITY;
    for (const { span } of all) if ((span.ended ?? Infinity) < began) floor = Math.max(floor, span.began);
    return all.filter(({ span }) => span.began <= ended && (span.ended ?? Infinity) >= floor);
  }

  #writesOf(register: string): readonly Write[] {
    const first: Write = {
      span: { began: Number.NEGATIVE_INFINITY, ended: Number.NEGATIVE_INFINITY },
      value: undefined,
    };
    const [kind, slug] = register.split(" ");
    const ofAll = kind === "secret" ? (this.#registers.get(`secret ${slug} *`) ?? []) : [];
    return [first, ...(this.#registers.get(register) ?? []), ...ofAll];
  }

  #write(register: string, write: Write): void {
    const writes = this.#registers.get(register);
    if (writes === undefined) this.#registers.set(register, [write]);
    else writes.push(write);
  }

  #secretsOf(slug: string): Set<string> {
    const names = this.#secrets.get(slug) ?? new Set<string>();
    this.#secrets.set(slug, names);
    return names;
  }
}
