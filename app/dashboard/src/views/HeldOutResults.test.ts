import { describe, expect, it } from "vitest";
import { heldOutResults, ranges } from "./HeldOutResults";

describe("held-out results", () => {
  it("shows the interval of the result after training", () => {
    const before = { values: { "eval/accuracy": 0.1 }, intervals: { "eval/accuracy": [0, 0.2] } };
    const after = { values: { "eval/accuracy": 0.7 }, intervals: { "eval/accuracy": [0.6, 0.8] } };
    expect(heldOutResults({ before })[0]?.interval).toEqual([0, 0.2]);
    expect(heldOutResults({ before, after })[0]?.interval).toEqual([0.6, 0.8]);
  });
  it("shows results of earlier versions, which have no intervals", () => {
    const [result] = heldOutResults({ before: { values: { "eval/loss": 2 } }, after: { values: { "eval/loss": 1 } } });
    expect(result).toMatchObject({ gain: 1, interval: undefined });
  });
  it("writes lines as ranges", () => {
    expect(ranges([1, 2, 3, 7, 9, 10])).toBe("1-3, 7, 9-10");
  });
});
