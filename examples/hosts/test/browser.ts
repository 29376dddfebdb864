/** An answer of an application: its status, its JSON, and the expiry of the cookie that it set. */
export interface Answer {
  readonly status: number;
  readonly body: unknown;
  /** When the cookie that the answer set expires, in milliseconds since the epoch. `undefined` if it set no cookie. */
  readonly cookieExpires: number | undefined;
}

/** Sends requests to an application, and keeps the session cookie as a browser does. */
export class Browser {
  readonly #origin: string;
  #cookie: string | undefined;

  constructor(origin: string) {
    this.#origin = origin;
  }

  /** Makes a second tab: it has the cookie of this browser. */
  tab(): Browser {
    const tab = new Browser(this.#origin);
    tab.#cookie = this.#cookie;
    return tab;
  }

  get(path: string): Promise<Answer> {
    return this.#send("GET", path);
  }

  post(path: string): Promise<Answer> {
    return this.#send("POST", path);
  }

  async #send(method: string, path: string): Promise<Answer> {
    const headers: Record<string, string> = this.#cookie === undefined ? {} : { cookie: this.#cookie };
    const response = await fetch(new URL(path, this.#origin), { method, headers });
    const [set] = response.headers.getSetCookie();
    this.#cookie = set?.split(";", 1)[0] ?? this.#cookie;
    return { status: response.status, body: await response.json(), cookieExpires: expiresOf(set) };
  }
}

function expiresOf(cookie: string | undefined): number | undefined {
  const maxAge = /max-age=(\d+)/i.exec(cookie ?? "")?.[1];
  if (maxAge !== undefined) return Date.now() + Number(maxAge) * 1000;
  const expires = /expires=([^;]+)/i.exec(cookie ?? "")?.[1];
  return expires === undefined ? undefined : Date.parse(expires);
}
