import { globSync } from "node:fs";
import { join, relative } from "node:path";
import {
  isBinaryExpression,
  isNoSubstitutionTemplateLiteral,
  isParenthesizedExpression,
  isStringLiteral,
  isTemplateExpression,
  type Node,
  SyntaxKind,
} from "typescript/unstable/ast";
import { withProject } from "../../../test/compiler.ts";

/** A text in the sources of a package, which a message or a hint of an error may contain. */
export interface SourceText {
  readonly file: string;
  /** The text. Each value that is inserted when the program runs is `…`. */
  readonly text: string;
}

/** Reads every text with a space in the sources of packages. Texts that are joined with "+" are one text. */
export function textsIn(repository: string, folders: readonly string[]): readonly SourceText[] {
  return folders.flatMap((folder) =>
    withProject(join(repository, folder), ({ program }) =>
      globSync(join(repository, folder, "src", "**", "*.ts")).flatMap((path) => {
        const source = program.getSourceFile(path);
        if (source === undefined) throw new Error(`The compiler does not have ${path}`);
        const file = relative(repository, path);
        return textsOf(source).map((text) => ({ file, text }));
      }),
    ),
  );
}

function textsOf(node: Node): string[] {
  const text = textOf(node);
  if (text !== undefined) return text.includes(" ") ? [text] : [];
  const texts: string[] = [];
  node.forEachChild((child) => void texts.push(...textsOf(child)));
  return texts;
}

/** Returns the text of a literal, or of literals that are joined; `undefined` for any other expression. */
function textOf(node: Node): string | undefined {
  if (isStringLiteral(node) || isNoSubstitutionTemplateLiteral(node)) return node.text;
  if (isTemplateExpression(node)) {
    return node.head.text + node.templateSpans.map(({ literal }) => `…${literal.text}`).join("");
  }
  if (isParenthesizedExpression(node)) return textOf(node.expression);
  if (!isBinaryExpression(node) || node.operatorToken.kind !== SyntaxKind.PlusToken) return undefined;
  const [left, right] = [textOf(node.left), textOf(node.right)];
  return left === undefined && right === undefined ? undefined : `${left ?? "…"}${right ?? "…"}`;
}
