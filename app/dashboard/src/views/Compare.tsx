// Up to eight jobs over each other, and in what they differ.
import { useLocation } from "preact-iso";
import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { Empty, Failure, Loading, Status, useTitle } from "../components/Basics";
import { Chart, type Line } from "../components/Chart";
import { useProject } from "../live";
import { chosen, flatten } from "../settings";
import type { Job, Series } from "../types";
import { MAX_COMPARED, nameOf } from "./Jobs";
import { useSeries } from "./Overview";
import type { Table } from "../series";

const CHARTS = ["reward", "eval/reward", "eval/accuracy", "loss", "eval/loss", "entropy", "eval/forward_kl", "grad_norm", "completions/mean_length", "gft/rectified_frac"];

export function Compare() {
  const { query: asked } = useLocation();
  const ids = (asked.ids ?? "").split(",").filter(Boolean).slice(0, MAX_COMPARED);
  useTitle("Compare");
  if (ids.length < 2) {
    return (
      <Empty title="Choose the jobs to compare">
        <p>
          Select two to eight of them in the <a href="/ui/">list of jobs</a> (<kbd>x</kbd>), then press Compare.
        </p>
      </Empty>
    );
  }
  return <Compared key={ids.join()} ids={ids} />;
}

interface Run {
  job: Job;
  table: Table;
}

function Compared({ ids }: { ids: string[] }) {
  const [runs, setRuns] = useState<Record<string, Run>>({});
  const [error, setError] = useState<ApiError>();
  const [smoothing, setSmoothing] = useState(0);
  const [live, setLive] = useState<Record<string, Job>>({});
  useProject((jobs) => {
    // Of those that have ended the whole is there already; the stream tells of each job once at its beginning.
    const mine = jobs.filter((job) => ids.includes(job.id) && runs[job.id]?.job.progress.step !== job.progress.step);
    if (mine.length) setLive((old) => ({ ...old, ...Object.fromEntries(mine.map((job) => [job.id, job])) }));
  });
  const note = (run: Run) => setRuns((old) => ({ ...old, [run.job.id]: run }));
  useEffect(() => {
    let current = true;
    for (const id of ids) {
      Promise.all([get<Job>(`${JOBS}/${id}`), get<Series>(query(`${JOBS}/${id}/metrics`, { points: 1000 }))]).then(
        ([job, table]) => current && note({ job, table }),
        (problem: ApiError) => current && setError(problem),
      );
    }
    return () => {
      current = false;
    };
  }, [ids.join()]);
  const shown = ids.map((id) => runs[id]).filter((one): one is Run => one !== undefined);
  const { steps, places } = useMemo(() => joined(shown), [runs]);
  if (error) return <Failure error={error} />;
  if (shown.length < ids.length) return <Loading what="the jobs" />;
  return (
    <>
      <div class="title">
        <h1>Compare</h1>
      </div>
      <ul class="legend wide">
        {shown.map(({ job }, index) => (
          <li key={job.id}>
            <i class={`swatch c${index}`} /> <a href={`/ui/jobs/${job.id}`}>{nameOf(job)}</a> <Status value={job.status} />
            {live[job.id] && <Follow job={live[job.id] as Job} note={note} />}
          </li>
        ))}
      </ul>
      <label class="row controls">
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
      <div class="charts">
        {CHARTS.filter((name) => shown.some(({ table }) => table.series[name]?.some((one) => one !== null))).map((name) => (
          <Overlay key={name} name={name} runs={shown} steps={steps} places={places} smoothing={smoothing} />
        ))}
      </div>
      <Differences jobs={shown.map((one) => one.job)} />
    </>
  );
}

/** Keeps the curves of a running job current. */
function Follow({ job, note }: { job: Job; note: (run: Run) => void }) {
  const { table } = useSeries(job);
  useEffect(() => table && note({ job, table }), [table, job]);
  return null;
}

/** All steps of all runs, and where each run's own lie among them. */
function joined(runs: Run[]): { steps: number[]; places: number[][] } {
  const steps = [...new Set(runs.flatMap((run) => run.table.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  return { steps, places: runs.map((run) => run.table.steps.map((step) => place.get(step) as number)) };
}

function Overlay(props: { name: string; runs: Run[]; steps: number[]; places: number[][]; smoothing: number }) {
  const { name, runs, steps, places } = props;
  const lines = useMemo<Line[]>(
    () =>
      runs.map(({ job, table }, index) => {
        const values = new Array<number | null>(steps.length).fill(null);
        table.series[name]?.forEach((value, own) => {
          const at = places[index]?.[own];
          if (at !== undefined) values[at] = value;
        });
        return { label: nameOf(job), colour: index, values };
      }),
    [runs, steps, name],
  );
  return <Chart title={name} steps={steps} lines={lines} smoothing={props.smoothing} />;
}

function Differences({ jobs }: { jobs: Job[] }) {
  const [everything, setEverything] = useState(false);
  const settings = jobs.map((job) => flatten(chosen(job)));
  const paths = [...new Set(settings.flatMap((one) => Object.keys(one)))].sort();
  const differs = (path: string) => new Set(settings.map((one) => one[path])).size > 1;
  const shown = paths.filter((path) => everything || differs(path));
  return (
    <section>
      <h2>Settings</h2>
      <label class="row">
        <input type="checkbox" checked={everything} onChange={(event) => setEverything(event.currentTarget.checked)} />
        also those that are the same
      </label>
      {shown.length === 0 ? (
        <p class="soft">These jobs have the same settings.</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Settings">
          <table class="settings">
            <thead>
              <tr>
                <th>Setting</th>
                {jobs.map((job, index) => (
                  <th key={job.id}>
                    <i class={`swatch c${index}`} /> {nameOf(job)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {shown.map((path) => (
                <tr key={path} class={differs(path) ? "changed" : ""}>
                  <td>{path}</td>
                  {settings.map((one, index) => (
                    <td key={index} class="text">
                      {one[path] ?? "–"}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
