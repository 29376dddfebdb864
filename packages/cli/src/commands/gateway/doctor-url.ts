import { CommandError } from "../../exit-codes.ts";
import { type Finding, good, problem, warning } from "./finding.ts";

/** The two listeners of a service. */
type ServiceListener = "admin" | "calls";

const toleratedClockMs = 5_000;
const answerWithinMs = 10_000;
const maxAnswerBytes = 4_096;
const names = { admin: "the admin API", calls: "the listener for calls" } as const;

/** Checks that the service at a URL is ready, and that its clock agrees with the clock of this machine. */
export async function checkUrl(url: string): Promise<readonly Finding[]> {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new CommandError("USAGE", "The value of --url is not a URL", {
      hint: "Pass a URL such as http://127.0.0.1:8490.",
    });
  }
  try {
    const target = new URL(`${new URL(url).href.replace(/\/+$/, "")}/readyz`);
    const response = await fetch(target, { redirect: "manual", signal: AbortSignal.timeout(answerWithinMs) });
    const listener = listenerOf(await boundedText(response));
    const clock = clockFinding(Math.abs(Date.now() - Date.parse(response.headers.get("date") ?? "")));
    return [...findingsOf(target.origin, response, listener), clock];
  } catch {
    const hint = "Check the URL, and that `keyward gateway start` runs. Read the log of the service.";
    return [problem("service", `${new URL(url).origin} does not answer`, hint)];
  }
}

function findingsOf(
  origin: string,
  { ok, status }: Pick<Response, "ok" | "status">,
  listener: ServiceListener | undefined,
): readonly Finding[] {
  if (listener === undefined) {
    return ok
      ? [problem("service", `${origin} is not the secrets service`, "Check the URL.")]
      : [problem("service", `${origin} answers ${status}`, "Check the URL, and read the log of the service.")];
  }
  const state = ok
    ? good("service", `${origin} is ready: ${names[listener]} answers`)
    : notReady(origin, status, listener);
  if (listener === "admin") return [state];
  const hint =
    "Check it, too: pass the URL of the admin API, which `keyward gateway start` prints, such as http://127.0.0.1:8490.";
  return [state, warning("service", "the admin API was not checked", hint)];
}

function notReady(origin: string, status: number, listener: ServiceListener): Finding {
  return problem(
    "service",
    `${origin} is not ready: ${names[listener]} answers ${status}`,
    "Read the log of the service.",
  );
}

/** Returns the text of an answer of at most 4 KiB; "" for a longer answer. */
async function boundedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > maxAnswerBytes) return "";
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Returns which listener of a secrets service has given an answer to `/readyz`; `undefined` for another program. */
function listenerOf(text: string): ServiceListener | undefined {
  try {
    const answer: unknown = JSON.parse(text);
    if (typeof answer !== "object" || answer === null || !("listener" in answer)) return undefined;
    return answer.listener === "admin" || answer.listener === "calls" ? answer.listener : undefined;
  } catch {
    return undefined;
  }
}

function clockFinding(apartMs: number): Finding {
  if (apartMs <= toleratedClockMs) return good("clock", "agrees with the clock of the service");
  const message = Number.isNaN(apartMs)
    ? "cannot be compared, because the answer of the service has no valid date"
    : `differs by ${Math.round(apartMs / 1_000)} seconds from the clock of the service`;
  return warning("clock", message, "Synchronize the clocks: values and tokens expire by them.");
}
