// Usage of inference as stacked bars: one bar a bucket, one part for each group.
import type { UsagePage, UsageResult } from "./types";

export type GroupField = "model" | "api_key_id" | "project_id";

export interface Total {
  name: string;
  requests: number;
  input: number;
  output: number;
}

/** Number of colours: with more groups, those with the fewest tokens are drawn together. */
const COLOURS = 8;
/** Stands for the groups that have no colour of their own. */
export const OTHERS = "others";

/** A part of a bar, in shares of the chart's height, from the bottom. */
export interface BarPart {
  name: string;
  from: number;
  to: number;
  tokens: number;
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

/** Returns the names of the parts of bars, from the bottom. */
export function partNames(sums: Total[]): string[] {
  const names = sums.map(({ name }) => name);
  return names.length <= COLOURS ? names : [...names.slice(0, COLOURS - 1), OTHERS];
}

/**
 * Returns the bars, scaled so that the highest fills the chart. `order` has the names of the parts from the bottom;
 * groups that are not in it belong to `OTHERS`.
 */
export function bars(page: UsagePage, field: GroupField, order: string[]): Bar[] {
  const sums = page.data.map((bucket) => bucket.results.reduce((sum, result) => sum + tokens(result), 0));
  const highest = Math.max(1, ...sums);
  return page.data.map((bucket, index) => {
    const sizes = new Map<string, number>();
    for (const result of bucket.results) {
      const name = result[field] ?? "–";
      const part = order.includes(name) ? name : OTHERS;
      sizes.set(part, (sizes.get(part) ?? 0) + tokens(result));
    }
    let height = 0;
    const parts = order.flatMap((name) => {
      const size = sizes.get(name);
      if (size === undefined) return [];
      const from = height / highest;
      height += size;
      return [{ name, from, to: height / highest, tokens: size }];
    });
    return { start: bucket.start_time, tokens: sums[index] as number, parts };
  });
}
