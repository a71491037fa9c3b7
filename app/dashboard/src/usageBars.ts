// Usage of inference as stacked bars: one bar a bucket, one part for each group.
import type { UsagePage, UsageResult } from "./types";

export type GroupField = "model" | "api_key_id" | "project_id";

export interface Total {
  name: string;
  requests: number;
  input: number;
  output: number;
}

/** A part of a bar, in shares of the chart's height, from the bottom. */
export interface BarPart {
  name: string;
  from: number;
  to: number;
}

export interface Bar {
  start: number;
  tokens: number;
  parts: BarPart[];
}

const tokens = (result: UsageResult): number => result.input_tokens + result.output_tokens;

/** Returns the sums of each group, the one with the most tokens first. */
export function totals(page: UsagePage, field: GroupField): Total[] {
  const sums = new Map<string, Total>();
  for (const result of page.data.flatMap((bucket) => bucket.results)) {
    const name = result[field] ?? "–";
    const sum = sums.get(name) ?? { name, requests: 0, input: 0, output: 0 };
    sum.requests += result.num_model_requests;
    sum.input += result.input_tokens;
    sum.output += result.output_tokens;
    sums.set(name, sum);
  }
  return [...sums.values()].sort((a, b) => b.input + b.output - a.input - a.output);
}

/** Returns the bars, scaled so that the highest fills the chart. `order` has the names of the groups from the bottom. */
export function bars(page: UsagePage, field: GroupField, order: string[]): Bar[] {
  const sums = page.data.map((bucket) => bucket.results.reduce((sum, result) => sum + tokens(result), 0));
  const highest = Math.max(1, ...sums);
  return page.data.map((bucket, index) => {
    let height = 0;
    const parts = order.flatMap((name) => {
      const result = bucket.results.find((one) => (one[field] ?? "–") === name);
      if (!result) return [];
      const from = height / highest;
      height += tokens(result);
      return [{ name, from, to: height / highest }];
    });
    return { start: bucket.start_time, tokens: sums[index] as number, parts };
  });
}
