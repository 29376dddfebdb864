import { KeywardError, Repetitions } from "@keyward/core";
import { describe, expect, it } from "vitest";

const down = (ms = 5_000, cause?: Error) =>
  new KeywardError("STORE_UNAVAILABLE", `The server did not answer within ${ms} ms`, { hint: "Start it.", cause });

/** Lets a problem occur once a second. Returns a map from the second of each report to the count in the report. */
function everySecond(problem: () => unknown, seconds: number): Map<number, number> {
  let second = 0;
  const repetitions = new Repetitions(() => second * 1_000);
  const reports = new Map<number, number>();
  for (; second < seconds; second++) {
    const repetition = repetitions.occurred(problem());
    if (repetition !== undefined) reports.set(second, repetition.times);
  }
  return reports;
}

describe("a repeated problem", () => {
  it("is reported at once, and then again after longer and longer pauses with the number of its occurrences", () => {
    const reports = everySecond(down, 2_000);
    expect([...reports]).toEqual([
      [0, 1],
      [5, 5],
      [15, 10],
      [35, 20],
      [75, 40],
      [155, 80],
      [315, 160],
      [615, 300],
      [915, 300],
      [1215, 300],
      [1515, 300],
      [1815, 300],
    ]);
  });

  it("is not treated as new if the only difference is a duration in the message, or another object as the cause", () => {
    let ms = 4_000;
    expect(everySecond(() => down(ms++, new Error(`closed after ${ms} ms`)), 5).size).toBe(1);
  });

  it("is reported at once when its code, message, cause or type changes", () => {
    const repetitions = new Repetitions(() => 0);
    const problems = [
      down(),
      down(5_000, new Error("refused")),
      down(5_000, new Error("no route")),
      new KeywardError("PROVIDER_UNAVAILABLE", down().message, { hint: "" }),
      new KeywardError("KEYRING_ROLLBACK", "is of generation 3", { hint: "" }),
      new KeywardError("KEYRING_ROLLBACK", "is of generation 4", { hint: "" }),
      new Error(down().message),
      "a text",
      "another text",
      undefined,
    ];
    for (const problem of problems) expect(repetitions.occurred(problem)).toEqual({ times: 1 });
    // Known problems that alternate are not reported again.
    for (const problem of problems) expect(repetitions.occurred(problem)).toBeUndefined();
  });

  it("is reported at once again after a success, or after 11 minutes without the problem", () => {
    let nowMs = 0;
    const repetitions = new Repetitions(() => nowMs);
    expect(repetitions.occurred(down())).toEqual({ times: 1 });
    expect(repetitions.occurred(down())).toBeUndefined();
    repetitions.succeeded();
    expect(repetitions.occurred(down())).toEqual({ times: 1 });
    expect(repetitions.occurred(down())).toBeUndefined();
    nowMs += 11 * 60 * 1_000;
    expect(repetitions.occurred(down())).toEqual({ times: 1 });
  });

  it("is reported even if its name or its message is not a string", () => {
    const repetitions = new Repetitions(() => 0);
    const strange = [{ message: undefined }, { message: 5, name: 5n }, { message: "m", name: null }].map((fields) =>
      Object.assign(new Error("x"), fields),
    );
    expect(strange.map((error) => repetitions.occurred(error)?.times)).toEqual([1, 1, 1]);
    expect(repetitions.occurred(strange[0])).toBeUndefined();
  });

  it("is forgotten after many other problems, which limits the memory, and is then reported as new", () => {
    const repetitions = new Repetitions(() => 0);
    for (let kind = 0; kind < 1_000; kind++) expect(repetitions.occurred(`kind ${kind}`)).toEqual({ times: 1 });
    // The oldest problems are forgotten, so they are reported again.
    expect(repetitions.occurred("kind 0")).toEqual({ times: 1 });
    expect(repetitions.occurred("kind 999")).toBeUndefined();
  });
});
