import { describe, expect, it } from "vitest";
import { chartSections, colour, label } from "./chartSpecs";

const STEP = [
  "loss",
  "grad_norm",
  "gft/expert/nll",
  "gft/expert/advantage",
  "gft/rectified_frac",
  "step_time",
  "odd/one",
];

/** The titles of the charts by section. */
const titles = (names: string[], ...methods: string[]) =>
  chartSections(names, methods).map(({ title, charts }) => [title, charts.map((chart) => chart.title)]);

describe("chartSections", () => {
  it("starts with the reward of groups and keeps every metric", () => {
    const names = [...STEP, "reward", "gft/self/reward", "gft/expert/reward", "eval/pass@4", "frac_reward_zero_std"];
    expect(titles(names, "gft")).toEqual([
      ["Learning", ["Reward by source"]],
      ["Evaluation", ["Held-out results"]],
      ["Groups", ["Advantage by source", "Groups without contrast", "Rectified share"]],
      ["Optimisation", ["Gradient norm", "Loss"]],
      ["Speed", ["Time per step"]],
      ["Other metrics", ["gft/expert/nll", "odd/one"]],
    ]);
    const charts = chartSections(names, ["reinforcement"]).flatMap((section) => section.charts);
    expect(charts[0]?.names).toEqual(["reward", "gft/self/reward", "gft/expert/reward"]);
    expect(charts.flatMap((chart) => chart.names).sort()).toEqual([...names].sort());
  });
  it.each(["supervised", "dft"])("starts with the loss of %s, without metrics of groups", (method) => {
    const names = [...STEP, "eval/loss", "eval/accuracy", "completions/mean_length", "gft/timing/rollout"];
    expect(titles(names, method)).toEqual([
      ["Learning", ["Loss", "Held-out loss", "Held-out results"]],
      ["Optimisation", ["Gradient norm"]],
      ["Speed", ["Time per step"]],
      ["Other metrics", ["gft/expert/nll", "odd/one"]],
    ]);
  });
  it("starts with the rewards of pairs", () => {
    const names = ["loss", "rewards/margins", "eval/rewards/margins", "rewards/accuracies", "eval/loss"];
    const [learning] = chartSections(names, ["dpo"]);
    expect(learning?.charts.map((chart) => chart.names)).toEqual([
      ["rewards/margins", "eval/rewards/margins"],
      ["rewards/accuracies"],
      ["loss"],
      ["eval/loss"],
    ]);
    expect(colour("rewards/chosen", 5)).toBe(colour("gft/preferred/length", 0));
    expect(label("eval/rewards/margins")).toBe("held-out margin");
  });
  it("keeps every metric of jobs with different methods", () => {
    const names = [...STEP, "reward", "rewards/margins"];
    const shown = chartSections(names, ["supervised", "gft", "dpo"]).flatMap((section) => section.charts);
    expect(shown.flatMap((chart) => chart.names).sort()).toEqual([...names].sort());
    expect(shown.find((chart) => chart.names[0] === "loss")?.hint).toMatch("Each method has its own loss");
    const alike = chartSections(STEP, ["supervised", "dft"]).flatMap((section) => section.charts);
    expect(alike[0]?.names).toEqual(["loss"]);
    expect(alike[0]?.hint).toMatch("should fall");
  });
});

describe("lines", () => {
  it("gives a source one colour", () => {
    expect(colour("gft/self/reward", 0)).toBe(colour("gft/self/length", 2));
    expect(colour("gft/self/reward", 0)).not.toBe(colour("gft/expert/reward", 0));
    expect(label("gft/teacher/length")).toBe("teacher");
  });
});
