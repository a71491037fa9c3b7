// Usage of inference: tokens by time and by model, key or project.
import { useMemo, useState } from "preact/hooks";
import { query } from "../api";
import { DataTable } from "../components/DataTable";
import { EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { plural } from "../format";
import { useGet } from "../liveData";
import { modelPage } from "../modelNames";
import { useCan } from "../session";
import type { Page, UsagePage } from "../types";
import { type Bar, bars, type GroupField, OTHERS, partNames, type Total, totals } from "../usageBars";

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
/** Lists with the names of keys and projects; only administrators may read them. */
const LISTS: Partial<Record<GroupField, string>> = {
  api_key_id: "/v1/api_keys?limit=100",
  project_id: "/v1/projects?limit=100",
};
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
  const labels = useLabels(isAdmin ? LISTS[field] : undefined);
  useTitle("Usage");
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  return (
    <>
      <div class="title">
        <h1>Usage</h1>
        <div class="row">
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
        <Report page={value} field={field} column={column} width={bucket_width} labels={labels} />
      ) : (
        <Loading what="the usage" />
      )}
    </>
  );
}

type Labels = ReadonlyMap<string, string>;

/** The names of what a list has, by id. */
function useLabels(list: string | undefined): Labels {
  const { value } = useGet<Page<{ id: string; name: string }>>(list ?? null);
  return useMemo(() => new Map(list ? value?.data.map(({ id, name }) => [id, name]) : []), [list, value]);
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

interface ReportProps {
  page: UsagePage;
  field: GroupField;
  column: string;
  width: Span["bucket_width"];
  labels: Labels;
}

function Report({ page, field, column, width, labels }: ReportProps) {
  const sums = totals(page, field);
  if (!sums.length) {
    return (
      <EmptyState title="No usage in this time">
        <p>
          Requests to chat completions, completions and responses appear here within a second. The{" "}
          <a href="/ui/playground">playground</a> sends some.
        </p>
      </EmptyState>
    );
  }
  return (
    <>
      <Chart page={page} field={field} sums={sums} width={width} labels={labels} />
      <DataTable label="Usage" columns={[column]} figures={["Requests", "Prompt tokens", "Completion tokens"]}>
        {sums.map((sum) => (
          <tr key={sum.name}>
            <td class="text">
              <GroupName field={field} name={sum.name} label={labels.get(sum.name)} />
            </td>
            <td class="figure">{count(sum.requests)}</td>
            <td class="figure">{count(sum.input)}</td>
            <td class="figure">{count(sum.output)}</td>
          </tr>
        ))}
      </DataTable>
    </>
  );
}

function GroupName({ field, name, label }: { field: GroupField; name: string; label?: string }) {
  if (field === "model")
    return (
      <a href={modelPage(name)}>
        <code>{name}</code>
      </a>
    );
  return (
    <>
      {label && <b>{label} </b>}
      <code>{name}</code>
    </>
  );
}

interface ChartProps {
  page: UsagePage;
  field: GroupField;
  sums: Total[];
  width: Span["bucket_width"];
  labels: Labels;
}

function Chart({ page, field, sums, width, labels }: ChartProps) {
  const names = partNames(sums);
  const drawn = bars(page, field, names);
  const requests = sums.reduce((sum, one) => sum + one.requests, 0);
  const all = sums.reduce((sum, one) => sum + one.input + one.output, 0);
  const label = (name: string) => labels.get(name) ?? name;
  const marked = [0, Math.floor(drawn.length / 2), drawn.length - 1].map((index) => drawn[index] as Bar);
  return (
    <figure class="chart usage">
      <figcaption>
        <h3>
          Tokens <small>{width === "1d" ? "per day (UTC)" : width === "1h" ? "per hour" : "per minute"}</small>
        </h3>
        <p class="hint">
          {count(all)} tokens of {plural(requests, "request")}
        </p>
      </figcaption>
      <div class="plot">
        <svg
          viewBox={`0 0 ${drawn.length * WIDTH} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Tokens by time. ${sums.map((sum) => `${label(sum.name)} ${count(sum.input + sum.output)}`).join(", ")}`}
        >
          {drawn.map((bar, index) => (
            <UsageBar key={bar.start} bar={bar} x={index * WIDTH} names={names} label={label} width={width} />
          ))}
        </svg>
        <span class="at">{count(Math.max(...drawn.map((bar) => bar.tokens)))}</span>
      </div>
      <div class="times at">
        {marked.map(({ start }) => (
          <time key={start}>{tick(start, width)}</time>
        ))}
      </div>
      <ul class="legend">
        {names.map((name, index) => (
          <li key={name}>
            <i class={`swatch c${index}`} />{" "}
            {name === OTHERS ? `${sums.length - names.length + 1} others` : label(name)}
          </li>
        ))}
      </ul>
    </figure>
  );
}

/** Returns the text of a bucket's start; days are those of UTC, times those of the browser. */
function tick(start: number, width: Span["bucket_width"]): string {
  const time = new Date(start * 1000);
  if (width === "1d") return time.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  return time.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

interface UsageBarProps {
  bar: Bar;
  x: number;
  names: string[];
  label: (name: string) => string;
  width: Span["bucket_width"];
}

/** One bucket. */
function UsageBar({ bar, x, names, label, width }: UsageBarProps) {
  return (
    <g>
      <title>{`${tick(bar.start, width)}: ${count(bar.tokens)} tokens`}</title>
      <rect class="slot" x={x} y={0} width={WIDTH} height={HEIGHT} />
      {bar.parts.map((part) => (
        <rect
          key={part.name}
          fill={`var(--chart-${names.indexOf(part.name)})`}
          x={x + 1}
          y={HEIGHT * (1 - part.to)}
          width={WIDTH - 2}
          height={HEIGHT * (part.to - part.from)}
        >
          <title>{`${tick(bar.start, width)}, ${label(part.name)}: ${count(part.tokens)} tokens`}</title>
        </rect>
      ))}
    </g>
  );
}
