import { KeywardError } from "@keyward/core";
import { apiProblem } from "./problem-error.ts";

const loopbackNames = ["localhost", "127.0.0.1", "[::1]"];

/**
 * Checks that a request is for one of the service's own names, so that a page of another site cannot reach the service
 * through a name that it controls.
 */
export class OwnNames {
  readonly #names: ReadonlySet<string>;
  readonly #publicOrigin: string | undefined;

  /** @throws KeywardError `VALUE_INVALID` if `publicUrl` is not an http or https URL. */
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
   * @param host the header `Host`, such as `localhost:8481`.
   * @param origin the header `Origin`, if the request has one.
   * @throws ProblemError `HOST_REFUSED`, `ORIGIN_REFUSED`.
   */
  require(host: string, origin: string | undefined): void {
    const asked = URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : undefined;
    if (asked === undefined || !this.#names.has(asked.hostname) || /[/?#@\\]/.test(host)) {
      throw apiProblem("HOST_REFUSED", {
        title: "Unknown host name",
        detail: "The host name of the request is not one of the service",
        hint: "Use localhost, or the public URL of the service. An operator sets the public URL when the service starts.",
      });
    }
    if (origin === undefined || origin === this.#publicOrigin) return;
    const from = URL.canParse(origin) ? new URL(origin) : undefined;
    if (from === undefined || !/^https?:$/.test(from.protocol) || from.host !== asked.host) {
      throw apiProblem("ORIGIN_REFUSED", {
        title: "Another origin",
        detail: "The request comes from a page of another origin",
        hint: "Send the request from the service's own pages, or without a browser.",
      });
    }
  }
}
