// Chart of the mean reward over all steps, above the slider that selects a step.
import { useMemo } from "preact/hooks";
import { JOBS, query } from "../api";
import { bounds, valueAt } from "../chartMath";
import { number } from "../format";
import { chartVersion } from "../jobMetrics";
import { useGet } from "../liveData";
import { between, type JobMetrics, type MetricTable } from "../metricTable";
import type { Job, Series } from "../types";

const POINTS = 400;
const HEIGHT = 60;
const FLAT = "frac_reward_zero_std";
/** The lines of the chart: each metric with its swatch and text. */
const OF_GROUPS = [
  ["reward", "c3", "reward of all answers"],
  ["gft/self/reward", "c2", "reward of rollouts"],
  [FLAT, "flat", "share of groups without contrast"],
] as const;
const OF_PAIRS = [["rewards/margins", "c3", "margin between the rewards of both answers"]] as const;

interface StripProps {
  job: Job;
  metrics: JobMetrics | undefined;
  steps: number[];
  shown: number;
  pick: (step: number) => void;
}

export function RewardStrip({ job, metrics, steps, shown, pick }: StripProps) {
  const [first, last] = [steps[0] ?? 0, steps.at(-1) ?? 0];
  const legend = (job.method as { type: string }).type === "dpo" ? OF_PAIRS : OF_GROUPS;
  const names = legend.map(([name]) => name).filter((name) => name !== FLAT);
  const path = query(`${JOBS}/${job.id}/metrics`, {
    points: POINTS,
    names: legend.map(([name]) => name).join(),
    step_from: first,
    step_to: last,
  });
  // More steps than fit are thinned out by the server.
  const isLong = metrics !== undefined && (metrics.isSampled || steps.length > POINTS);
  const thinned = useGet<Series>(isLong && last > first ? path : null, chartVersion(job));
  const whole = useMemo(
    () => metrics && !isLong && between(metrics.table, first, last),
    [metrics, isLong, first, last],
  );
  const value = isLong ? thinned.value : whole;
  const x = (step: number) => ((step - first) / Math.max(1, last - first)) * 1000;
  const drawn = useMemo(() => (value ? draw(value, names, x) : undefined), [value, first, last]);
  if (!drawn || !value) return null;
  const at = value.steps.findLastIndex((step) => step <= shown);
  return (
    <figure class="strip">
      <svg
        viewBox={`0 0 1000 ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${legend[0][2]} by step; at step ${shown}: ${number(valueAt(value.series[legend[0][0]] ?? [], at))}`}
        onClick={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          pick(first + ((event.clientX - box.left) / box.width) * (last - first));
        }}
      >
        {drawn.flat.map(([left, width, height]) => (
          <rect key={left} class="flat" x={left} width={width} y={HEIGHT - height} height={height} />
        ))}
        {drawn.lines.map((points, index) => (
          <polyline key={index} class={index ? "own" : "all"} points={points} />
        ))}
        <line class="cursor" x1={x(shown)} x2={x(shown)} y1="0" y2={HEIGHT} />
      </svg>
      <ul class="legend">
        {legend.map(([name, swatch, text]) => (
          <li key={name}>
            <i class={`swatch ${swatch}`} /> {text} <b>{number(valueAt(value.series[name] ?? [], at))}</b>
          </li>
        ))}
      </ul>
    </figure>
  );
}

type Box = [left: number, width: number, height: number];

function draw(table: MetricTable, names: string[], x: (step: number) => number): { lines: string[]; flat: Box[] } {
  const values = names.map((name) => table.series[name] ?? []);
  const all = values.flat().filter((value): value is number => value !== null);
  const [low, high] = bounds(all.length ? Math.min(...all) : null, all.length ? Math.max(...all) : null);
  const y = (value: number) => HEIGHT - ((value - low) / (high - low)) * HEIGHT;
  const lines = values.map((own) =>
    own
      .flatMap((value, index) =>
        value === null ? [] : [`${x(table.steps[index] as number).toFixed(1)},${y(value).toFixed(1)}`],
      )
      .join(" "),
  );
  const width = 1000 / Math.max(1, table.steps.length);
  const flat = (table.series[FLAT] ?? []).flatMap((share, index): Box[] =>
    share ? [[x(table.steps[index] as number) - width / 2, width, share * HEIGHT]] : [],
  );
  return { lines, flat };
}
