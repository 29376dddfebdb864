import type { HeldBytes } from "./bytes-under-way.ts";
import { invalid, Refusal } from "./protocol.ts";

/** Bounds of a request's body. */
export interface BodyLimits {
  readonly maxBytes: number;
  /** How long it may take to arrive, in ms. */
  readonly timeoutMs: number;
  /** Where what has arrived is counted. */
  readonly held: HeldBytes;
}

/**
 * The whole body, if it is not too large and does not take too long.
 *
 * @throws Refusal `TOO_LARGE`, as soon as that is known; `REQUEST_TIMEOUT`; `OVERLOADED`.
 */
export async function readBody(request: Request, { maxBytes, timeoutMs, held }: BodyLimits): Promise<Buffer> {
  const tooLarge = () => new Refusal("TOO_LARGE", `The body is larger than ${maxBytes} bytes`);
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge();
  const reader = request.body?.getReader();
  if (reader === undefined) return Buffer.alloc(0);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Refusal("REQUEST_TIMEOUT", "The body took too long to arrive")), timeoutMs);
  });
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late]);
      if (done) return Buffer.concat(chunks);
      bytes += value.length;
      if (bytes > maxBytes) throw tooLarge();
      held.add(value.length);
      chunks.push(value);
    }
  } catch (error) {
    reader.cancel().catch(() => undefined);
    if (error instanceof Refusal) throw error;
    throw invalid("The body broke off");
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Text as it came, its byte order mark included.
 *
 * @throws Refusal `REQUEST_INVALID` for what is not UTF-8.
 */
export function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalid("The text is not UTF-8");
  }
}
