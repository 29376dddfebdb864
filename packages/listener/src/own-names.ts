import { KeywardError } from "@keyward/core";

const loopbackNames = ["localhost", "127.0.0.1", "[::1]"];

/** The header that makes a request refused: `Host` does not name this service, or `Origin` names another site. */
export type RefusedName = "host" | "origin";

/**
 * Checks that the `Host` of a request is one of the service's own names. Otherwise a web page of another site could reach
 * the service through a DNS name that an attacker controls.
 */
export class OwnNames {
  readonly #names: ReadonlySet<string>;
  readonly #publicOrigin: string | undefined;
  /** The last header `Host` that was a name of the service. Most requests have the same one. */
  #lastHost: string | undefined;

  /**
   * Accepts the loopback names of this machine, such as `localhost`, and the host name in `publicUrl`.
   *
   * @param publicUrl the URL at which clients on other machines reach the service; `undefined` if there is none.
   * @throws KeywardError `VALUE_INVALID` if `publicUrl` is not an http or https URL.
   */
  constructor(publicUrl: string | undefined) {
    const parsed = publicUrl !== undefined && URL.canParse(publicUrl) ? new URL(publicUrl) : undefined;
    if (publicUrl !== undefined && (parsed === undefined || !/^https?:$/.test(parsed.protocol))) {
      throw new KeywardError("VALUE_INVALID", "publicUrl is not a URL that begins with http:// or https://", {
        hint: "Pass the URL at which clients reach the service, such as https://keyward.example.com.",
      });
    }
    this.#names = new Set(parsed === undefined ? loopbackNames : [...loopbackNames, parsed.hostname]);
    this.#publicOrigin = parsed?.origin;
  }

  /**
   * Returns the header because of which a request must be refused, or `undefined` if the request is allowed.
   *
   * @param host the header `Host`, such as `localhost:8481`.
   * @param origin the header `Origin`, if the request has one.
   */
  refusal(host: string, origin: string | undefined): RefusedName | undefined {
    if (host === this.#lastHost && origin === undefined) return undefined;
    const asked = URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : undefined;
    if (asked === undefined || !this.#names.has(asked.hostname) || /[/?#@\\]/.test(host)) return "host";
    this.#lastHost = host;
    if (origin === undefined || origin === this.#publicOrigin) return undefined;
    const from = URL.canParse(origin) ? new URL(origin) : undefined;
    if (from === undefined || !/^https?:$/.test(from.protocol) || from.host !== asked.host) return "origin";
    return undefined;
  }
}
