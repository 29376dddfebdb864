import { hasToken } from "@keyward/secrets/fields";
import { expect, it } from "vitest";

/** A token in the form of the service. It is not a token of any service. */
const random = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghi789XYZ";
const token = `kwt_abcdefghijkl_mnopqrstuvwx_${random.slice(0, 49)}`;

it.each([
  ["a whole token", token],
  ["the token of an operator", token.replace("abcdefghijkl", "service")],
  ["a token in a sentence", `the token is ${token}, or so`],
  ["a token without its first character", token.slice(1)],
  ["a token without its prefix", token.slice(4)],
  ["a token without its checksum", token.slice(0, -6)],
  ["a token with hyphens", token.replaceAll("_", "-")],
  ["a percent-encoded token", token.replaceAll("_", "%5F")],
  ["a token whose prefix is full-width", token.replace("kwt", "ｋｗｔ")],
  ["a token with a space in its id", `${token.slice(0, 8)} ${token.slice(8)}`],
])("finds %s", (_, text) => {
  expect(hasToken(text)).toBe(true);
});

it.each([
  ["a UUID", "123e4567-e89b-12d3-a456-426614174000 and 123e4567-e89b-12d3-a456-426614174000"],
  ["a long path", "/repos/example-org/some-long-repository-name/issues/comments/1234567890/reactions"],
  ["a slug of many parts", "service-one-two-three-four-five-six-seven-eight-nine-ten-eleven-twelve-thirteen"],
  ["the beginning of a token", token.slice(0, 40)],
  ["broken percent encoding", "%5".repeat(40)],
])("does not find a token in %s", (_, text) => {
  expect(hasToken(text)).toBe(false);
});

it("searches a long text in a time that grows with its length only", () => {
  const timeMs = (length: number) => {
    const text = "abcdefghijkl_".repeat(length / 13);
    const beginMs = performance.now();
    for (let round = 0; round < 5; round++) hasToken(text);
    return performance.now() - beginMs;
  };
  timeMs(100_000);
  // Ten times the text may take thirty times as long on a busy machine, and would take a hundred times if it were quadratic.
  expect(timeMs(1_000_000)).toBeLessThan(60 * timeMs(100_000) + 200);
});
