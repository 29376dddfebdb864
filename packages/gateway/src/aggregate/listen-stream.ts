import type { CallerAnswer } from "./caller-answer.ts";
import { isObject, type JsonObject, objectIn } from "./json.ts";
import { type MessageId, metaKeys, withMeta } from "./messages.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

/** The changes to which a caller of the modern protocol can listen, and the method of each notification. */
const offered: ReadonlyMap<string, string> = new Map([
  ["toolsListChanged", "notifications/tools/list_changed"],
  ["promptsListChanged", "notifications/prompts/list_changed"],
  ["resourcesListChanged", "notifications/resources/list_changed"],
]);

/** The stream of a caller of the modern protocol that listens to changes. */
export class ListenStream {
  /** The lists to whose changes the caller listens. */
  readonly lists: WorkspaceLists;
  readonly #id: MessageId;
  readonly #answer: CallerAnswer;
  readonly #methods: ReadonlySet<string>;

  constructor(id: MessageId, params: JsonObject | undefined, answer: CallerAnswer, lists: WorkspaceLists) {
    this.lists = lists;
    this.#id = id;
    this.#answer = answer;
    const asked = objectIn(params, "notifications");
    const granted = [...offered].filter(([name]) => asked[name] === true);
    this.#methods = new Set(granted.map(([, method]) => method));
    answer.stream();
    this.#send("notifications/subscriptions/acknowledged", {
      notifications: Object.fromEntries(granted.map(([name]) => [name, true])),
    });
    if (granted.length === 0) this.end();
  }

  /** Returns true if the parameters name the notifications to listen to. */
  static isValid(params: JsonObject | undefined): boolean {
    return isObject(params?.["notifications"]);
  }

  /** Sends the notification `method` to the caller, if the caller listens to it. */
  tell(method: string): void {
    if (this.#methods.has(method)) this.#send(method, {});
  }

  /** Ends the stream with the result of the request. */
  end(): void {
    const result = { resultType: "complete", _meta: { [metaKeys.subscription]: this.#id } };
    this.#answer.respond(JSON.stringify({ jsonrpc: "2.0", id: this.#id, result }));
  }

  #send(method: string, params: JsonObject): void {
    const stamped = withMeta(params, { [metaKeys.subscription]: this.#id });
    void this.#answer.send(JSON.stringify({ jsonrpc: "2.0", method, params: stamped }));
  }
}
