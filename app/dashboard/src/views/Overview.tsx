// The curves of a job, and what it could do before and after.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { Empty, Failure, Loading } from "../components/Basics";
import { Chart } from "../components/Chart";
import { number, signed } from "../format";
import { isFinal, useGet } from "../live";
import { append, type ChartSpec, charts, colour, label, type Table } from "../series";
import type { Attempt, Job, Series } from "../types";

const POINTS = 1000;
const MAX_STEPS = 3 * POINTS;

/** All series of a job; while it runs, only what is new is asked for. */
export function useSeries(job: Job): { table: Table | undefined; error: ApiError | undefined } {
  const [table, setTable] = useState<Table>();
  const [error, setError] = useState<ApiError>();
  const known = useRef<{ key: string; table?: Table; busy?: boolean; again?: boolean }>({ key: "" });
  const key = `${job.id}/${job.attempt}`;
  useEffect(() => {
    if (known.current.key !== key) known.current = { key };
    const mine = known.current;
    const load = () => {
      if (mine.busy) {
        mine.again = true;
        return;
      }
      mine.busy = true;
      const isLong = (mine.table?.steps.length ?? 0) > MAX_STEPS;
      const last = isLong ? undefined : mine.table?.steps.at(-1);
      // The last step is read again: its evaluation may have come after it.
      get<Series>(query(`${JOBS}/${job.id}/metrics`, { points: POINTS, step_from: last })).then(
        (next) => {
          mine.busy = false;
          if (known.current !== mine) return;
          mine.table = last !== undefined && mine.table ? append(mine.table, next) : next;
          setTable(mine.table);
          setError(undefined);
          if (mine.again) {
            mine.again = false;
            load();
          }
        },
        (problem: ApiError) => {
          mine.busy = false;
          setError(problem);
        },
      );
    };
    load();
  }, [key, job.progress.step, job.status]);
  return { table, error };
}

export function Overview({ job }: { job: Job }) {
  const { table, error } = useSeries(job);
  const [smoothing, setSmoothing] = useState(0);
  const attempts = useGet<{ data: Attempt[] }>(`${JOBS}/${job.id}/attempts`, job.attempt);
  const markers = useMemo(
    () => (attempts.value?.data ?? []).filter((one) => one.epoch > 1).map((one) => one.resumed_from_step),
    [attempts.value],
  );
  const specs = useMemo(() => {
    const filled = Object.entries(table?.series ?? {}).filter(([, values]) => values.some((one) => one !== null));
    return charts(filled.map(([name]) => name));
  }, [table]);
  if (error && !table) return <Failure error={error} />;
  if (!table) return <Loading what="the curves" />;
  return (
    <>
      <BeforeAfter job={job} />
      {table.steps.length === 0 ? (
        <Empty title={isFinal(job) ? "This job wrote no metrics" : "No steps yet"}>
          <p>
            {isFinal(job)
              ? "It ended before its first step; its events say why."
              : "The curves appear with the first step. Loading the model and the evaluation before training come first."}
          </p>
        </Empty>
      ) : (
        <>
          <div class="row controls">
            <label>
              Smoothing{" "}
              <input
                type="range"
                min="0"
                max="0.98"
                step="0.02"
                value={smoothing}
                onInput={(event) => setSmoothing(Number(event.currentTarget.value))}
              />
            </label>
            <a class="button" href={`${JOBS}/${job.id}/metrics?format=csv`} download={`${job.id}.csv`}>
              Download CSV
            </a>
          </div>
          <div class="charts">
            {specs.main.map((spec) => (
              <Panel key={spec.title} spec={spec} table={table} markers={markers} smoothing={smoothing} />
            ))}
          </div>
          {specs.rest.length > 0 && (
            <details>
              <summary>{specs.rest.length} more metrics</summary>
              <div class="charts">
                {specs.rest.map((spec) => (
                  <Panel key={spec.title} spec={spec} table={table} markers={markers} smoothing={smoothing} />
                ))}
              </div>
            </details>
          )}
        </>
      )}
    </>
  );
}

function Panel(props: { spec: ChartSpec; table: Table; markers: number[]; smoothing: number }) {
  const { spec, table } = props;
  const lines = useMemo(
    () =>
      spec.names.map((name, position) => ({
        label: label(name),
        colour: colour(name, position),
        values: table.series[name] ?? [],
      })),
    [spec, table],
  );
  return (
    <Chart
      title={spec.title}
      hint={spec.hint}
      steps={table.steps}
      lines={lines}
      markers={props.markers}
      smoothing={props.smoothing}
    />
  );
}

type Result = Record<string, unknown> & { step?: number; samples?: Sample[] };
interface Sample {
  prompt: string;
  response: string;
  reward: number | null;
  reference?: string | null;
}

/** Where less is better. */
const COSTS = /loss|errors|clipped/;

function BeforeAfter({ job }: { job: Job }) {
  const evaluation = job.evaluation as { before?: Result; after?: Result } | null;
  const { before, after } = evaluation ?? {};
  if (!before) return null;
  const flat = (result: Result | undefined): Record<string, number> => {
    const values = (result?.values ?? result ?? {}) as Record<string, unknown>;
    return Object.fromEntries(
      Object.entries(values).filter((one): one is [string, number] => typeof one[1] === "number" && one[0] !== "step"),
    );
  };
  const [old, fresh] = [flat(before), flat(after)];
  const names = Object.keys(old).filter((name) => !/errors|length|clipped/.test(name));
  return (
    <section aria-label="Held-out results">
      <div class="tiles">
        {names.map((name) => {
          const [from, to] = [old[name] as number, fresh[name]];
          const gain = to === undefined ? 0 : (to - from) * (COSTS.test(name) ? -1 : 1);
          const tone = /entropy|kl/.test(name) || Math.abs(gain) < 1e-9 ? "" : gain > 0 ? "good" : "bad";
          return (
            <div class="tile" key={name}>
              <span>held-out {name.replace("eval/", "").replaceAll("_", " ")}</span>
              <strong>{number(to ?? from)}</strong>
              <small class={tone}>
                {to === undefined ? "before training" : `${signed(to - from)} from ${number(from)}`}
              </small>
            </div>
          );
        })}
      </div>
      {before.samples && after?.samples && <Samples before={before.samples} after={after.samples} />}
    </section>
  );
}

function Samples({ before, after }: { before: Sample[]; after: Sample[] }) {
  return (
    <details>
      <summary>The same held-out questions, before and after</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="Answers before and after">
        <table>
          <thead>
            <tr>
              <th>Question</th>
              <th>Before</th>
              <th>After</th>
            </tr>
          </thead>
          <tbody>
            {after.map((one, index) => (
              <tr key={index}>
                <td class="text">{one.prompt}</td>
                <td class="text">
                  <b>{number(before[index]?.reward)}</b> {before[index]?.response}
                </td>
                <td class="text">
                  <b>{number(one.reward)}</b> {one.response}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
