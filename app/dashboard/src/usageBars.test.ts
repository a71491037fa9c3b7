import { describe, expect, it } from "vitest";
import type { UsagePage } from "./types";
import { bars, OTHERS, partNames, totals } from "./usageBars";

const result = (model: string, input: number, output: number) => ({
  object: "organization.usage.completions.result" as const,
  model,
  input_tokens: input,
  output_tokens: output,
  num_model_requests: 1,
});
const bucket = (start: number, ...results: ReturnType<typeof result>[]) => ({
  object: "bucket" as const,
  start_time: start,
  end_time: start + 60,
  results,
});
const page: UsagePage = {
  object: "page",
  data: [bucket(0, result("a", 1, 1), result("b", 5, 1)), bucket(60), bucket(120, result("a", 3, 1))],
  has_more: false,
  next_page: null,
};

describe("usage", () => {
  it("sums each group, the largest first", () => {
    expect(totals(page, "model")).toEqual([
      { name: "a", requests: 2, input: 4, output: 2 },
      { name: "b", requests: 1, input: 5, output: 1 },
    ]);
  });

  it("stacks the groups and scales to the highest bar", () => {
    const [first, empty, last] = bars(page, "model", ["b", "a"]);
    expect(first?.parts).toEqual([
      { name: "b", from: 0, to: 0.75, tokens: 6 },
      { name: "a", from: 0.75, to: 1, tokens: 2 },
    ]);
    expect(empty).toEqual({ start: 60, tokens: 0, parts: [] });
    expect(last?.parts).toEqual([{ name: "a", from: 0, to: 0.5, tokens: 4 }]);
  });

  it("draws the groups without a colour together", () => {
    const names = [..."abcdefghij"];
    const many = { ...page, data: [bucket(0, ...names.map((name, index) => result(name, 100 - index, 0)))] };
    const order = partNames(totals(many, "model"));
    expect(order).toEqual([..."abcdefg", OTHERS]);
    const [bar] = bars(many, "model", order);
    expect(bar?.parts.at(-1)).toEqual({ name: OTHERS, from: bar?.parts.at(-2)?.to, to: 1, tokens: 276 });
  });
});
