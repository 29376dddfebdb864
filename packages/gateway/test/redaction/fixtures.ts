/** The value of all fixtures. */
export const fixtureValue = "p@ss/w+rd <é>&\"'\\ 12=34%20;~";

/**
 * How programs write {@link fixtureValue}. Those of Python 3.11, Go 1.26 and Java 17 are what these programs wrote. Those of .NET,
 * Gson and PHP were written by hand, after their documented rules. Those of Node.js are made by the test.
 */
export const fixtures: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  Python: {
    "json.dumps": "p@ss/w+rd <\\u00e9>&\\\"'\\\\ 12=34%20;~",
    "json.dumps without ensure_ascii": "p@ss/w+rd <é>&\\\"'\\\\ 12=34%20;~",
    "json.dumps twice": "p@ss/w+rd <\\\\u00e9>&\\\\\\\"'\\\\\\\\ 12=34%20;~",
    "urllib.parse.quote": "p%40ss/w%2Brd%20%3C%C3%A9%3E%26%22%27%5C%2012%3D34%2520%3B~",
    "urllib.parse.quote_plus": "p%40ss%2Fw%2Brd+%3C%C3%A9%3E%26%22%27%5C+12%3D34%2520%3B~",
    "html.escape": "p@ss/w+rd &lt;é&gt;&amp;&quot;&#x27;\\ 12=34%20;~",
    "html.escape in json.dumps": "p@ss/w+rd &lt;\\u00e9&gt;&amp;&quot;&#x27;\\\\ 12=34%20;~",
    xmlcharrefreplace: "p@ss/w+rd &lt;&#233;&gt;&amp;&quot;&#x27;\\ 12=34%20;~",
    "base64.b64encode": "cEBzcy93K3JkIDzDqT4mIidcIDEyPTM0JTIwO34=",
    "base64.urlsafe_b64encode": "cEBzcy93K3JkIDzDqT4mIidcIDEyPTM0JTIwO34=",
    "bytes.hex": "704073732f772b7264203cc3a93e2622275c2031323d33342532303b7e",
    "repr of bytes": "p@ss/w+rd <\\xc3\\xa9>&\"\\'\\\\ 12=34%20;~",
  },
  Go: {
    "base64.StdEncoding": "cEBzcy93K3JkIDzDqT4mIidcIDEyPTM0JTIwO34=",
    "base64.URLEncoding": "cEBzcy93K3JkIDzDqT4mIidcIDEyPTM0JTIwO34=",
    "fmt %+q": "p@ss/w+rd <\\u00e9>&\\\"'\\\\ 12=34%20;~",
    "fmt %X": "704073732F772B7264203CC3A93E2622275C2031323D33342532303B7E",
    "fmt %q": "p@ss/w+rd <é>&\\\"'\\\\ 12=34%20;~",
    "hex.EncodeToString": "704073732f772b7264203cc3a93e2622275c2031323d33342532303b7e",
    "html.EscapeString": "p@ss/w+rd &lt;é&gt;&amp;&#34;&#39;\\ 12=34%20;~",
    "html.EscapeString in json.Marshal":
      "p@ss/w+rd \\u0026lt;é\\u0026gt;\\u0026amp;\\u0026#34;\\u0026#39;\\\\ 12=34%20;~",
    "json.Marshal": "p@ss/w+rd \\u003cé\\u003e\\u0026\\\"'\\\\ 12=34%20;~",
    "json.Marshal twice": "p@ss/w+rd \\\\u003cé\\\\u003e\\\\u0026\\\\\\\"'\\\\\\\\ 12=34%20;~",
    "template.HTMLEscapeString": "p@ss/w+rd &lt;é&gt;&amp;&#34;&#39;\\ 12=34%20;~",
    "template.JSEscapeString": "p@ss/w+rd \\u003Cé\\u003E\\u0026\\\"\\'\\\\ 12\\u003D34%20;~",
    "url.PathEscape": "p@ss%2Fw+rd%20%3C%C3%A9%3E&%22%27%5C%2012=34%2520%3B~",
    "url.QueryEscape": "p%40ss%2Fw%2Brd+%3C%C3%A9%3E%26%22%27%5C+12%3D34%2520%3B~",
  },
  Java: {
    "URLEncoder.encode": "p%40ss%2Fw%2Brd+%3C%C3%A9%3E%26%22%27%5C+12%3D34%2520%3B%7E",
    HexFormat: "704073732f772b7264203cc3a93e2622275c2031323d33342532303b7e",
  },
  ".NET, by hand": {
    JsonSerializer: "p@ss/w\\u002Brd \\u003C\\u00E9\\u003E\\u0026\\u0022\\u0027\\\\ 12=34%20;~",
    "JsonSerializer twice":
      "p@ss/w\\\\u002Brd \\\\u003C\\\\u00E9\\\\u003E\\\\u0026\\\\u0022\\\\u0027\\\\\\\\ 12=34%20;~",
    "JsonSerializer of base64": "cEBzcy93K3JkIDzDqT4mIidcIDEyPTM0JTIwO34=",
    HtmlEncoder: "p@ss/w&#x2B;rd &lt;&#xE9;&gt;&amp;&quot;&#x27;\\ 12=34%20;~",
    "WebUtility.HtmlEncode": "p@ss/w+rd &lt;&#233;&gt;&amp;&quot;&#39;\\ 12=34%20;~",
    "Uri.EscapeDataString": "p%40ss%2Fw%2Brd%20%3C%C3%A9%3E%26%22%27%5C%2012%3D34%2520%3B~",
    "HttpUtility.UrlEncode": "p%40ss%2fw%2brd+%3c%c3%a9%3e%26%22%27%5c+12%3d34%2520%3b%7e",
    "Convert.ToHexString": "704073732F772B7264203CC3A93E2622275C2031323D33342532303B7E",
  },
  "Gson, by hand": {
    toJson: 'p@ss/w+rd \\u003cé\\u003e\\u0026\\"\\u0027\\\\ 12\\u003d34%20;~',
  },
  "PHP, by hand": {
    json_encode: "p@ss\\/w+rd <\\u00e9>&\\\"'\\\\ 12=34%20;~",
    "json_encode twice": "p@ss\\\\\\/w+rd <\\\\u00e9>&\\\\\\\"'\\\\\\\\ 12=34%20;~",
    "json_encode with JSON_HEX_TAG, _AMP, _APOS and _QUOT":
      "p@ss\\/w+rd \\u003C\\u00e9\\u003E\\u0026\\u0022\\u0027\\\\ 12=34%20;~",
    htmlspecialchars: "p@ss/w+rd &lt;é&gt;&amp;&quot;&#039;\\ 12=34%20;~",
    htmlentities: "p@ss/w+rd &lt;&eacute;&gt;&amp;&quot;&#039;\\ 12=34%20;~",
    rawurlencode: "p%40ss%2Fw%2Brd%20%3C%C3%A9%3E%26%22%27%5C%2012%3D34%2520%3B~",
    urlencode: "p%40ss%2Fw%2Brd+%3C%C3%A9%3E%26%22%27%5C+12%3D34%2520%3B%7E",
    addslashes: "p@ss/w+rd <é>&\\\"\\'\\\\ 12=34%20;~",
    bin2hex: "704073732f772b7264203cc3a93e2622275c2031323d33342532303b7e",
  },
};
