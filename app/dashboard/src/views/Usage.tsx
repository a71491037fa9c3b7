// Usage of inference: tokens by time and by model, key or project.
import { useMemo, useState } from "preact/hooks";
import { query } from "../api";
import { DataTable } from "../components/DataTable";
import { EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { plural } from "../format";
import { useGet } from "../liveData";
import { useCan } from "../session";
import type { UsagePage } from "../types";
import { type Bar, bars, type GroupField, totals } from "../usageBars";

interface Span {
  name: string;
  bucket_width: "1m" | "1h" | "1d";
  seconds: number;
  /** Number of buckets. */
  limit: number;
}

const SPANS: Span[] = [
  { name: "Last hour", bucket_width: "1m", seconds: 60, limit: 60 },
  { name: "Last 24 hours", bucket_width: "1h", seconds: 3_600, limit: 24 },
  { name: "Last 30 days", bucket_width: "1d", seconds: 86_400, limit: 30 },
];
const GROUPS: { field: GroupField; name: string; column: string }[] = [
  { field: "model", name: "By model", column: "Model" },
  { field: "api_key_id", name: "By API key", column: "API key" },
  { field: "project_id", name: "All projects", column: "Project" },
];
const PALETTE = 8;
const HEIGHT = 160;
const WIDTH = 12; // of a bar with its gap

const count = (value: number): string => value.toLocaleString("en-US");

/** Returns the start of the first bucket, so that the last one contains the current time. */
function startOf({ seconds, limit }: Span): number {
  return (Math.floor(Date.now() / 1000 / seconds) - limit + 1) * seconds;
}

export function Usage() {
  const [span, setSpan] = useState(2);
  const [group, setGroup] = useState(0);
  const isAdmin = useCan("admin");
  const { bucket_width, limit } = SPANS[span] as Span;
  const { field, column } = GROUPS[group] as (typeof GROUPS)[number];
  const path = field === "project_id" ? "/v1/organization/usage/completions" : "/v1/usage/completions";
  const start_time = useMemo(() => startOf(SPANS[span] as Span), [span]);
  const { value, error, reload } = useGet<UsagePage>(query(path, { start_time, bucket_width, limit, group_by: field }));
  useTitle("Usage");
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  return (
    <>
      <div class="title">
        <h1>Usage</h1>
        <div class="between">
          <Choice label="Time" options={SPANS.map((one) => one.name)} chosen={span} choose={setSpan} />
          <Choice
            label="Group"
            options={GROUPS.filter((one) => isAdmin || one.field !== "project_id").map((one) => one.name)}
            chosen={group}
            choose={setGroup}
          />
          <button type="button" onClick={reload}>
            Refresh
          </button>
        </div>
      </div>
      {value ? (
        <Report page={value} field={field} column={column} width={bucket_width} />
      ) : (
        <Loading what="the usage" />
      )}
    </>
  );
}

function Choice(props: { label: string; options: string[]; chosen: number; choose: (index: number) => void }) {
  return (
    <select
      aria-label={props.label}
      value={props.chosen}
      onChange={(event) => props.choose(Number(event.currentTarget.value))}
    >
      {props.options.map((name, index) => (
        <option key={name} value={index}>
          {name}
        </option>
      ))}
    </select>
  );
}

function Report({ page, field, column, width }: { page: UsagePage; field: GroupField; column: string; width: string }) {
  const sums = totals(page, field);
  if (!sums.length) {
    return (
      <EmptyState title="No usage in this time">
        <p>Requests to chat completions, completions and responses appear here within a second.</p>
      </EmptyState>
    );
  }
  const names = sums.map((sum) => sum.name);
  const colour = (name: string) => names.indexOf(name) % PALETTE;
  const drawn = bars(page, field, names);
  const all = sums.reduce((sum, one) => sum + one.input + one.output, 0);
  return (
    <>
      <figure class="chart">
        <figcaption>
          <h3>
            Tokens <small>{width === "1d" ? "per day" : width === "1h" ? "per hour" : "per minute"}</small>
          </h3>
          <p class="hint">
            {count(all)} tokens of{" "}
            {plural(
              sums.reduce((sum, one) => sum + one.requests, 0),
              "request",
            )}
            ; the highest bar has {count(Math.max(...drawn.map((bar) => bar.tokens)))}.
          </p>
        </figcaption>
        <svg
          class="usage-bars"
          viewBox={`0 0 ${drawn.length * WIDTH} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Tokens by time. ${sums.map((sum) => `${sum.name} ${count(sum.input + sum.output)}`).join(", ")}`}
        >
          {drawn.map((bar, index) => (
            <UsageBar key={bar.start} bar={bar} x={index * WIDTH} colour={colour} isDay={width === "1d"} />
          ))}
        </svg>
        <ul class="legend">
          {names.map((name) => (
            <li key={name}>
              <i class={`swatch c${colour(name)}`} /> {name}
            </li>
          ))}
        </ul>
      </figure>
      <DataTable label="Usage" columns={[column, "Requests", "Prompt tokens", "Completion tokens"]}>
        {sums.map((sum) => (
          <tr key={sum.name}>
            <td class="text">
              <code>{sum.name}</code>
            </td>
            <td>{count(sum.requests)}</td>
            <td>{count(sum.input)}</td>
            <td>{count(sum.output)}</td>
          </tr>
        ))}
      </DataTable>
    </>
  );
}

/** One bucket. Days are those of UTC. */
function UsageBar(props: { bar: Bar; x: number; colour: (name: string) => number; isDay: boolean }) {
  const { bar, x } = props;
  const start = new Date(bar.start * 1000);
  const when = props.isDay ? start.toISOString().slice(0, 10) : start.toLocaleString("en-GB");
  return (
    <g>
      <title>{`${when}: ${count(bar.tokens)} tokens`}</title>
      <rect class="slot" x={x} y={0} width={WIDTH} height={HEIGHT} />
      {bar.parts.map((part) => (
        <rect
          key={part.name}
          fill={`var(--chart-${props.colour(part.name)})`}
          x={x + 1}
          y={HEIGHT * (1 - part.to)}
          width={WIDTH - 2}
          height={HEIGHT * (part.to - part.from)}
        />
      ))}
    </g>
  );
}
