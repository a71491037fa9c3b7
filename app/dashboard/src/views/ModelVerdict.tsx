// The verdict on a trained model: is it better than the one that training started from?
import { number, plural, signed } from "../format";
import type { Job } from "../types";

export const VERDICTS = {
  improved: { icon: "▲", text: "improved", tone: "good" },
  no_change: { icon: "=", text: "no change", tone: "wait" },
  worse: { icon: "▼", text: "worse than before", tone: "bad" },
} as const;

export function VerdictBadge({ job }: { job: Job }) {
  if (!job.verdict) return null;
  const { icon, text, tone } = VERDICTS[job.verdict];
  return (
    <span class={`pill ${tone}`} title={job.comparison?.reason}>
      <span aria-hidden="true">{icon}</span> {text}
    </span>
  );
}

const NAMES: Record<string, string> = { "eval/reward": "mean reward", "eval/loss": "loss" };

/** The comparison in plain words; nothing before training is finished. */
export function VerdictText({ job }: { job: Job }) {
  const found = job.comparison;
  if (!found) return null;
  if (!job.verdict || found.low === null || found.low === undefined) {
    return <p class="soft verdict">No verdict. {found.reason}</p>;
  }
  const name = NAMES[found.metric ?? ""] ?? found.metric;
  const change = `Row by row, the ${name} changed by ${signed(found.difference ?? 0)}; with 95 % confidence by ${signed(found.low)} to ${signed(found.high ?? 0)}.`;
  const meaning = {
    improved: "Training helped.",
    no_change: `${plural(found.rows ?? 0, "row")} cannot tell whether training helped.`,
    worse: "Training made the model worse. Use the model that training started from.",
  }[job.verdict];
  return (
    <div
      class={`verdict ${job.verdict === "worse" ? "notice bad" : ""}`}
      role={job.verdict === "worse" ? "alert" : undefined}
    >
      <VerdictBadge job={job} /> {meaning}{" "}
      <span class="soft">
        {change} Before {number(found.before)}, after {number(found.after)}.
      </span>
    </div>
  );
}
