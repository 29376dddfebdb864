/** Named HTML entities of punctuation. */
const punctuation =
  "quot34 amp38 apos39 lt60 gt62 excl33 num35 dollar36 percnt37 lpar40 rpar41 ast42 plus43 comma44 period46 sol47 colon58 " +
  "semi59 equals61 quest63 commat64 lsqb91 lbrack91 bsol92 rsqb93 rbrack93 Hat94 lowbar95 grave96 lcub123 lbrace123 " +
  "verbar124 vert124 rcub125 rbrace125";

/** Named HTML entities of U+00A0 to U+00FF, in this order. */
const latin1 =
  "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn sup2 sup3 acute micro para " +
  "middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute " +
  "Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml " +
  "Yacute THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml " +
  "eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml";

/** The code points of the named HTML entities that encoders write for the characters of a value. */
export const entities: ReadonlyMap<string, number> = new Map([
  ...punctuation.split(" ").map((entry): [string, number] => {
    const [, name = "", code] = /^(\D+)(\d+)$/.exec(entry) ?? [];
    return [name, Number(code)];
  }),
  ...latin1.split(" ").map((name, index): [string, number] => [name, 0xa0 + index]),
]);
