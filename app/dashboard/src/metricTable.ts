// Metric values by step: the table that `GET …/metrics` returns, the rows that a job's event stream brings, and their union.
import type { JobEvent } from "./types";

export type Values = Record<string, number | null>;

/** One list per metric, as long as `steps`; null where a step has no such value. */
export interface MetricTable {
  steps: number[];
  series: Record<string, (number | null)[]>;
}

export interface MetricRow {
  step: number;
  values: Values;
}

/** More rows than this are not drawn from the stream: each chart then requests series that the server has thinned out. */
export const MAX_ROWS = 2000;

/**
 * Fields that the event of a step has in addition to its metric values, most of them for OpenAI's clients. A test compares
 * this list with the fields that the server writes.
 */
export const EVENT_FIELDS: ReadonlySet<string> = new Set([
  "completion_tokens_mean",
  "errors",
  "full_valid_mean_parse_error",
  "full_valid_mean_reward",
  "mean_unresponsive_rewards",
  "model_graders_token_usage",
  "reasoning_tokens_mean",
  "scores",
  "step",
  "timing",
  "total_steps",
  "train_loss",
  "train_mean_reward",
  "usage",
  "valid_reasoning_tokens_mean",
]);

/** The metric values of an event; none for events of other types. */
export function rowsOf(event: JobEvent): MetricRow[] {
  const data = event.data;
  if (event.type !== "metrics" || typeof data?.step !== "number") return [];
  const values = Object.entries(data).filter(([name]) => !EVENT_FIELDS.has(name));
  return [{ step: data.step, values: Object.fromEntries(values) as Values }];
}

/** Rows from a job's event stream, by step. */
export interface StreamedRows {
  rows: ReadonlyMap<number, Values>;
  /** More rows came than are kept; only the latest remains. */
  isPartial: boolean;
}

export const NO_ROWS: StreamedRows = { rows: new Map(), isPartial: false };

/** Adds rows in the order of the stream: a step that a resumed attempt repeats replaces the earlier row. */
export function addRows(old: StreamedRows, added: MetricRow[]): StreamedRows {
  const last = added.at(-1);
  if (!last) return old;
  const rows = new Map(old.rows);
  for (const { step, values } of added) rows.set(step, values);
  if (!old.isPartial && rows.size <= MAX_ROWS) return { rows, isPartial: false };
  return { rows: new Map([[last.step, last.values]]), isPartial: true };
}

/** A table of rows, in the order of their steps. */
export function tableOf(rows: ReadonlyMap<number, Values>): MetricTable {
  const steps = [...rows.keys()].sort((a, b) => a - b);
  const names = new Set([...rows.values()].flatMap(Object.keys));
  const column = (name: string) => steps.map((step) => rows.get(step)?.[name] ?? null);
  return { steps, series: Object.fromEntries([...names].map((name) => [name, column(name)])) };
}

/** The steps of both tables. Of a step that both have, the whole row of `newer` counts. */
export function merge(older: MetricTable, newer: MetricTable): MetricTable {
  if (!newer.steps.length) return older;
  const replaced = new Set(newer.steps);
  const kept = older.steps.flatMap((step, row) => (replaced.has(step) ? [] : [{ step, row, isNewer: false }]));
  const added = newer.steps.map((step, row) => ({ step, row, isNewer: true }));
  // Both parts are sorted, and mostly one follows the other: the engine's merge sort then takes linear time.
  const order = [...kept, ...added].sort((a, b) => a.step - b.step);
  const series: MetricTable["series"] = {};
  const names = new Set([...Object.keys(older.series), ...Object.keys(newer.series)]);
  // In the server's order: a chart's colours depend on it.
  for (const name of [...names].sort()) {
    const [before, after] = [older.series[name], newer.series[name]];
    series[name] = order.map(({ row, isNewer }) => (isNewer ? after : before)?.[row] ?? null);
  }
  return { steps: order.map(({ step }) => step), series };
}

/** The steps of all tables, and a function that returns a metric of one table at those steps. */
export function onSharedSteps(tables: MetricTable[]): {
  steps: number[];
  valuesOf: (table: number, name: string) => (number | null)[];
} {
  const steps = [...new Set(tables.flatMap((table) => table.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  const valuesOf = (index: number, name: string) => {
    const values = new Array<number | null>(steps.length).fill(null);
    const table = tables[index];
    for (const [row, value] of (table?.series[name] ?? []).entries()) {
      values[place.get(table?.steps[row] as number) as number] = value;
    }
    return values;
  };
  return { steps, valuesOf };
}

/** The steps `first` to `last` of a table. */
export function between({ steps, series }: MetricTable, first: number, last: number): MetricTable {
  const from = steps.findIndex((step) => step >= first);
  const to = steps.findLastIndex((step) => step <= last) + 1;
  const cut = <T>(list: T[]): T[] => (from < 0 ? [] : list.slice(from, to));
  return {
    steps: cut(steps),
    series: Object.fromEntries(Object.entries(series).map(([name, values]) => [name, cut(values)])),
  };
}

export interface JobMetrics {
  table: MetricTable;
  /** The table lacks steps: only its names and its last step are complete. */
  isSampled: boolean;
}

/**
 * A job's metrics from its history and its stream.
 *
 * The stream is subscribed to before the history is requested, so no step falls between them; steps that both have count
 * once. The streamed row always wins: the stream is ordered and loses nothing, so it ends with the row that the database
 * ends with, while the history may have been read before a resumed attempt repeated the step.
 */
export function combine(history: MetricTable & { is_sampled: boolean }, streamed: StreamedRows): JobMetrics {
  const table = merge(history, tableOf(streamed.rows));
  return { table, isSampled: history.is_sampled || streamed.isPartial || table.steps.length > MAX_ROWS };
}
