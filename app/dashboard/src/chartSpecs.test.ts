import { describe, expect, it } from "vitest";
import { charts, colour, label } from "./chartSpecs";

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
