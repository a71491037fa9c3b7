import { describe, expect, it } from "vitest";
import { charts, colour, label } from "./chartSpecs";

describe("charts", () => {
  it("groups sources and keeps every metric", () => {
    const names = ["loss", "reward", "gft/self/reward", "gft/expert/reward", "eval/pass@4", "odd/one"];
    const { main, rest } = charts(names);
    expect(main.map((chart) => chart.title)).toEqual(["Reward by source", "Held-out results", "Loss"]);
    expect(main[0]?.names).toEqual(["reward", "gft/self/reward", "gft/expert/reward"]);
    expect(rest.map((chart) => chart.title)).toEqual(["odd/one"]);
    expect([...main, ...rest].flatMap((chart) => chart.names).sort()).toEqual([...names].sort());
  });
  it("separates pairs from graders", () => {
    const names = ["rewards/exact/mean", "rewards/margins", "eval/rewards/margins", "rewards/accuracies"];
    const { main, rest } = charts(names);
    expect(main.map((chart) => chart.names)).toEqual([
      ["rewards/margins", "eval/rewards/margins"],
      ["rewards/accuracies"],
      ["rewards/exact/mean"],
    ]);
    expect(rest).toEqual([]);
    expect(colour("rewards/chosen", 5)).toBe(colour("gft/preferred/length", 0));
    expect(label("eval/rewards/margins")).toBe("held-out margin");
  });
  it("gives a source one colour", () => {
    expect(colour("gft/self/reward", 0)).toBe(colour("gft/self/length", 2));
    expect(colour("gft/self/reward", 0)).not.toBe(colour("gft/expert/reward", 0));
    expect(label("gft/teacher/length")).toBe("teacher");
  });
});
