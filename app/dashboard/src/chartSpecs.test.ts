import { describe, expect, it } from "vitest";
import { append, bounds, charts, colour, label, smooth, valueAt } from "./chartSpecs";

describe("charts", () => {
  it("puts the sources of a metric into one chart and forgets none", () => {
    const names = ["loss", "reward", "gft/self/reward", "gft/expert/reward", "eval/pass@4", "odd/one"];
    const { main, rest } = charts(names);
    expect(main.map((one) => one.title)).toEqual(["Reward by source", "Held-out results", "Loss"]);
    expect(main[0]?.names).toEqual(["reward", "gft/self/reward", "gft/expert/reward"]);
    expect(rest.map((one) => one.title)).toEqual(["odd/one"]);
    expect([...main, ...rest].flatMap((one) => one.names).sort()).toEqual([...names].sort());
  });
  it("keeps a source's colour wherever it stands", () => {
    expect(colour("gft/self/reward", 0)).toBe(colour("gft/self/length", 2));
    expect(colour("gft/self/reward", 0)).not.toBe(colour("gft/expert/reward", 0));
    expect(label("gft/teacher/length")).toBe("teacher");
  });
});

describe("smooth", () => {
  it("starts at the first value and leaves gaps alone", () => {
    expect(smooth([4, null, 4], 0.9)).toEqual([4, null, 4]);
    const found = smooth([0, 10], 0.5);
    expect(found[1]).toBeCloseTo(10 / 1.5);
  });
});

describe("append", () => {
  const known = { steps: [1, 2, 3], series: { a: [1, 2, 3] } };
  it("adds steps and series", () => {
    expect(append(known, { steps: [4], series: { b: [9] } })).toEqual({
      steps: [1, 2, 3, 4],
      series: { a: [1, 2, 3, null], b: [null, null, null, 9] },
    });
  });
  it("takes repeated steps from the newer table", () => {
    expect(append(known, { steps: [3, 4], series: { a: [30, 40] } })).toEqual({
      steps: [1, 2, 3, 4],
      series: { a: [1, 2, 30, 40] },
    });
  });
});

describe("an axis", () => {
  it("has air around its values, also around a single one", () => {
    expect(bounds(0, 1)).toEqual([-0.08, 1.08]);
    expect(bounds(5, 5)).toEqual([4.5, 5.5]);
    expect(bounds(0.998, 1, true)).toEqual([-0.02, 1.02]);
    for (const [low, high] of [bounds(0, 0), bounds(null, null)]) expect(low).toBeLessThan(high);
  });
});

describe("the value at a step", () => {
  it("is the last one that was measured", () => {
    expect(valueAt([1, null, null, 4], 2)).toBe(1);
    expect(valueAt([1, null, null, 4], Infinity)).toBe(4);
    expect(valueAt([null, 2], 0)).toBeNull();
  });
});
