// How the pages of evals show results.
import { plural } from "./format";
import type { EvalRun, RunComparison, RunMeans } from "./types";

export const EVALS = "/v1/evals";

export const isUnfinished = ({ status }: EvalRun): boolean => status === "queued" || status === "in_progress";

/** Share of the graded rows that passed; undefined without one. */
export function passRate({ result_counts: { passed, failed } }: EvalRun): number | undefined {
  return passed + failed ? passed / (passed + failed) : undefined;
}

/** Formats a share with one digit: "66.7 %". */
export const share = (value: number | undefined): string =>
  value === undefined ? "–" : `${(value * 100).toFixed(1)} %`;

const points = (value: number): string => `${value >= 0 ? "+" : "−"}${Math.abs(value * 100).toFixed(1)}`;
const score = (value: number): string => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(3)}`;

/** Formats a paired difference, a pass rate in points and a score as it is: "+40.0 (−12.1 to +78.3)". */
export function difference(means: RunMeans, isShare: boolean): string {
  const shown = isShare ? points : score;
  return `${shown(means.difference)} (${shown(means.low)} to ${shown(means.high)})`;
}

/** Says in one sentence which of two runs is better, if the rows can tell. */
export function verdict({ pass_rate: rate }: RunComparison): { tone: "good" | "bad" | "mute"; text: string } {
  if (!rate) return { tone: "mute", text: "No row has a result in both runs." };
  if (rate.low <= 0 && rate.high >= 0) {
    return { tone: "mute", text: `${plural(rate.rows, "row")} cannot tell which run is better.` };
  }
  return rate.low > 0
    ? { tone: "good", text: "The run is better than the baseline." }
    : { tone: "bad", text: "The run is worse than the baseline." };
}
