import { getNodeValue, type Node, type ParseError, parseTree } from "jsonc-parser";
import { CommandError } from "../../exit-codes.ts";

/**
 * Parses JSON that may have comments and trailing commas, as VS Code writes it. The objects have no prototype.
 *
 * @throws CommandError `USAGE` with the number of the line, without any text of the file.
 */
export function parseJsonc(text: string): unknown {
  const errors: ParseError[] = [];
  try {
    const root = parseTree(text, errors, { allowTrailingComma: true });
    const [error] = errors;
    if (error !== undefined || root === undefined) {
      throw refused(text, error?.offset ?? 0, "is not valid JSON", "Check the path, and correct the line.");
    }
    const repeated = repeatedKey(root);
    if (repeated !== undefined) {
      // A program reads the first value or the last one.
      throw refused(text, repeated.offset, "has a name a second time in one object", "Remove one of the two.");
    }
    return getNodeValue(root);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new CommandError("USAGE", "The file has too many objects inside one another, so nothing was done", {
      hint: "Check the path.",
    });
  }
}

function repeatedKey(node: Node): Node | undefined {
  const keys = new Set<unknown>();
  for (const child of node.children ?? []) {
    const key = child.type === "property" ? child.children?.[0] : undefined;
    if (key !== undefined && keys.has(key.value)) return key;
    if (key !== undefined) keys.add(key.value);
    const inside = repeatedKey(child);
    if (inside !== undefined) return inside;
  }
  return undefined;
}

function refused(text: string, offset: number, reason: string, hint: string): CommandError {
  const line = text.slice(0, offset).split("\n").length;
  return new CommandError("USAGE", `Line ${line} of the file ${reason}, so nothing was done`, { hint });
}
