import { expect, test } from "vitest";
import { difference, passRate, verdict } from "./evalResults";
import type { EvalRun, RunComparison, RunMeans } from "./types";

const means = (low: number, high: number): RunMeans => ({
  name: "pass_rate",
  baseline: 0.4,
  run: 0.8,
  difference: 0.4,
  low,
  high,
  rows: 5,
});

test("rows with errors count in no pass rate", () => {
  const counts = (passed: number, failed: number, errored: number) =>
    ({ result_counts: { total: passed + failed + errored, passed, failed, errored } }) as EvalRun;
  expect(passRate(counts(2, 2, 6))).toBe(0.5);
  expect(passRate(counts(0, 0, 6))).toBeUndefined();
});

test("a difference has its interval", () => {
  expect(difference(means(-0.121, 0.783), true)).toBe("+40.0 (−12.1 to +78.3)");
  expect(difference(means(-0.121, 0.783), false)).toBe("+0.400 (−0.121 to +0.783)");
});

test("an interval that includes 0 decides nothing", () => {
  const tone = (low: number, high: number) => verdict({ pass_rate: means(low, high) } as RunComparison).tone;
  expect([tone(-0.1, 0.9), tone(0.1, 0.9), tone(-0.9, -0.1)]).toEqual(["mute", "good", "bad"]);
  expect(verdict({ pass_rate: null } as RunComparison).tone).toBe("mute");
});
