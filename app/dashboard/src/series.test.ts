import { describe, expect, it } from "vitest";
import { append, charts, colour, label, smooth } from "./series";

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
