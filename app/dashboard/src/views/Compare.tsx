// Compares up to eight jobs: held-out results, charts and settings.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS } from "../api";
import { type ChartSection, type ChartSpec, chartSections, isHeldOut } from "../chartSpecs";
import { Chart, type ChartChoices, type Line, type Zoom } from "../components/Chart";
import { ChartControls } from "../components/ChartControls";
import { ChartSections } from "../components/ChartSections";
import { EmptyState, ErrorNotice, Loading, StatusBadge, useTitle } from "../components/primitives";
import { number, plural } from "../format";
import { chartVersion, useChartTables, useIsVisible, useJobMetrics, useStreamedRows } from "../jobMetrics";
import { nameOf } from "../jobNotes";
import { type FlatSettings, flatten, requestFromJob } from "../jobSettings";
import { isFinal, useProjectStream } from "../liveData";
import { type JobMetrics, type MetricTable, onSharedSteps } from "../metricTable";
import { useLocation } from "../root";
import type { FileObject, Job } from "../types";
import { heldOutResults } from "./HeldOutResults";
import { methodOf, timeTaken } from "./Jobs";
import { VerdictBadge } from "./ModelVerdict";
import { MAX_COMPARED } from "./SelectedJobs";

/** The metrics that are compared, with a title where the title of a job's chart does not fit one metric alone. */
const COMPARED: Record<string, string | undefined> = {
  reward: "Reward",
  loss: undefined,
  "rewards/margins": "Reward margin",
  "rewards/accuracies": "Pairs won",
  "eval/reward": "Held-out reward",
  "eval/accuracy": "Held-out accuracy",
  "eval/rewards/margins": "Held-out reward margin",
  "eval/rewards/accuracies": "Held-out pairs won",
  "eval/loss": undefined,
  "eval/forward_kl": undefined,
  entropy: undefined,
  grad_norm: undefined,
  "completions/mean_length": undefined,
  "gft/rectified_frac": undefined,
  frac_reward_zero_std: undefined,
  step_time: undefined,
};

/** A chart for each compared metric, in the sections of a job's charts. */
function comparedSections(runs: Run[]): ChartSection[] {
  const isMeasured = (name: string) =>
    runs.some((run) => run.metrics.table.series[name]?.some((value) => value !== null));
  const names = Object.keys(COMPARED).filter(isMeasured);
  const methods = runs.map(({ job }) => methodOf(job));
  return chartSections(names, methods).map((section) => ({
    ...section,
    isOpen: true,
    charts: section.charts.flatMap((spec) =>
      spec.names.map((name) => ({ ...spec, title: COMPARED[name] ?? spec.title, names: [name] })),
    ),
  }));
}

export function Compare() {
  const { query: params } = useLocation();
  const ids = [...new Set((params.ids ?? "").split(",").filter(Boolean))].slice(0, MAX_COMPARED);
  useTitle("Compare");
  if (ids.length < 2) {
    return (
      <EmptyState title="Choose jobs to compare">
        <p>
          Select two to eight jobs in the <a href="/ui/">list of jobs</a> (<kbd>x</kbd>), then choose Compare.
        </p>
      </EmptyState>
    );
  }
  return <Compared key={ids.join()} ids={ids} />;
}

/**
 * Live jobs whose streams are followed; metrics of others are requested. Browsers open six connections to a server, for all
 * tabs together.
 */
const MAX_STREAMED = 3;

interface Run {
  job: Job;
  metrics: JobMetrics;
}

function Compared({ ids }: { ids: string[] }) {
  const [jobs, setJobs] = useState<Record<string, Job>>({});
  const [metrics, setMetrics] = useState<Record<string, JobMetrics>>({});
  const [error, setError] = useState<ApiError>();
  const [smoothing, setSmoothing] = useState(0);
  const [zoom, setZoom] = useState<Zoom>();
  const updateJob = (job: Job) => setJobs((old) => ({ ...old, [job.id]: job }));
  useEffect(() => {
    for (const id of ids) get<Job>(`${JOBS}/${id}`).then(updateJob, setError);
  }, []);
  useProjectStream((changed) => changed.filter((job) => ids.includes(job.id)).forEach(updateJob));
  const shownJobs = ids.map((id) => jobs[id]).filter((job): job is Job => job !== undefined);
  const runs = useMemo(
    () => shownJobs.flatMap((job) => (metrics[job.id] ? [{ job, metrics: metrics[job.id] as JobMetrics }] : [])),
    [metrics, shownJobs.map(chartVersion).join()],
  );
  const sections = useMemo(() => comparedSections(runs), [runs]);
  const loaded = shownJobs.length === ids.length ? shownJobs : [];
  const streamed = useMemo(
    () =>
      new Set(
        loaded
          .filter((job) => !isFinal(job))
          .map((job) => job.id)
          .slice(0, MAX_STREAMED),
      ),
    [loaded.length],
  );
  if (error) return <ErrorNotice error={error} />;
  const isReady = runs.length === ids.length;
  const last = Math.max(1, ...runs.map((run) => run.metrics.table.steps.at(-1) ?? 0));
  return (
    <>
      {loaded.map((job) => (
        <MetricsLoader
          key={job.id}
          job={job}
          isStreamed={streamed.has(job.id)}
          note={(loaded) => setMetrics((old) => ({ ...old, [job.id]: loaded }))}
          fail={setError}
        />
      ))}
      <div class="title">
        <h1>Compare {plural(ids.length, "job")}</h1>
      </div>
      {!isReady ? (
        <Loading what="the jobs" />
      ) : (
        <>
          <Results jobs={shownJobs} />
          <ChartControls {...{ smoothing, setSmoothing, zoom, setZoom, last }} />
          <ChartSections
            sections={sections}
            panel={(spec, choices) => (
              <ComparisonChart key={spec.title} {...{ spec, choices, runs, smoothing, zoom, setZoom }} />
            )}
          />
          <Differences jobs={shownJobs} />
        </>
      )}
    </>
  );
}

/** Keeps the metrics of a job current: by its stream, else by requests that become rarer as the job gets longer. */
function MetricsLoader({
  job,
  isStreamed,
  note,
  fail,
}: {
  job: Job;
  isStreamed: boolean;
  note: (metrics: JobMetrics) => void;
  fail: (error: ApiError) => void;
}) {
  const { streamed, isReady } = useStreamedRows(job.id, isStreamed);
  const { metrics, error } = useJobMetrics(
    isReady ? job.id : null,
    streamed,
    isStreamed ? "streamed" : chartVersion(job),
  );
  useEffect(() => metrics && note(metrics), [metrics]);
  useEffect(() => error && fail(error), [error]);
  return null;
}

/** The held-out results of the jobs; a star marks the largest gain of each. */
function Results({ jobs }: { jobs: Job[] }) {
  const results = jobs.map((job) => heldOutResults(job.evaluation));
  const columns = [...new Map(results.flat().map((result) => [result.name, result.title]))];
  const best = (name: string): number => {
    const gains = results.map((own) => own.find((result) => result.name === name)?.gain ?? 0);
    const most = Math.max(...gains);
    return most > 0 && gains.filter((gain) => gain === most).length === 1 ? gains.indexOf(most) : -1;
  };
  return (
    <div class="scroll fixed-first" tabIndex={0} role="region" aria-label="Results">
      <table class="results">
        <thead>
          <tr>
            <th>Job</th>
            <th>Status</th>
            <th class="figure">Steps</th>
            <th class="figure">Took</th>
            {columns.map(([name, title]) => (
              <th key={name} class="figure">
                held-out {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {jobs.map((job, index) => (
            <tr key={job.id}>
              <td>
                <i class={`swatch c${index}`} /> <a href={`/ui/jobs/${job.id}`}>{nameOf(job)}</a>
              </td>
              <td>
                <StatusBadge value={job.status} /> <VerdictBadge job={job} />
              </td>
              <td class="figure">{job.progress.step.toLocaleString("en-US")}</td>
              <td class="figure">{timeTaken(job) ?? "–"}</td>
              {columns.map(([name]) => {
                const result = results[index]?.find((own) => own.name === name);
                return (
                  <td key={name} class="figure">
                    {best(name) === index && <span title="Largest gain">★ </span>}
                    <b>{number(result?.after ?? result?.before)}</b>{" "}
                    {result?.before !== undefined && result.after !== undefined && (
                      <small>from {number(result.before)}</small>
                    )}
                    {result?.interval && (
                      <small title="95 % confidence interval">
                        {" "}
                        ({number(result.interval[0])} to {number(result.interval[1])})
                      </small>
                    )}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface OverlayProps {
  /** Has one name. */
  spec: ChartSpec;
  choices: ChartChoices;
  runs: Run[];
  smoothing: number;
  zoom: Zoom | undefined;
  setZoom: (zoom: Zoom | undefined) => void;
}

function ComparisonChart({ spec, choices, runs, smoothing, zoom, setZoom }: OverlayProps) {
  const place = useRef<HTMLDivElement>(null);
  const isVisible = useIsVisible(place);
  const { title, hint, unit, isShare, names } = spec;
  const name = names[0] as string;
  const tables = useChartTables(runs, names, zoom, isVisible);
  const { steps, lines } = useMemo(() => overlaid(name, runs, tables), [name, runs, ...tables]);
  return (
    <div ref={place}>
      <Chart {...{ title, hint, unit, isShare, steps, lines, smoothing, isVisible, zoom, choices }} onZoom={setZoom} />
    </div>
  );
}

/** Returns one line per run over the union of their steps. */
function overlaid(name: string, runs: Run[], tables: MetricTable[]): { steps: number[]; lines: Line[] } {
  const { steps, valuesOf } = onSharedSteps(tables);
  const lines = runs.map(({ job }, index) => ({
    label: nameOf(job),
    colour: index,
    values: valuesOf(index, name),
    isExact: isHeldOut(name),
  }));
  return { steps, lines };
}

/** Returns a job's settings under paths that do not depend on its method; a grader stays in one piece. */
function settingsOf(job: Job): FlatSettings {
  const { method, ...rest } = requestFromJob(job) as { method: Record<string, unknown> };
  const type = String(method.type);
  const { grader, ...settings } = method[type] as Record<string, unknown>;
  const whole = grader ? { grader: JSON.stringify(grader, null, 1).replace(/^\{\n|\n\}$/g, "") } : {};
  return flatten({ method: type, ...whole, ...settings, ...rest });
}

/** The files of the jobs by id, without deleted ones; undefined while they are loading. */
function useFilesOf(jobs: Job[]): Map<string, FileObject> | undefined {
  const [files, setFiles] = useState<Map<string, FileObject>>();
  const ids = [...new Set(jobs.flatMap((job) => [job.training_file, job.validation_file]))].filter((id) => id !== null);
  useEffect(() => {
    Promise.allSettled(ids.map((id) => get<FileObject>(`/v1/files/${id}`))).then((answers) => {
      const found = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
      setFiles(new Map(found.map((file) => [file.id, file])));
    });
  }, [ids.join()]);
  return files;
}

function Differences({ jobs }: { jobs: Job[] }) {
  const [everything, setEverything] = useState(false);
  const files = useFilesOf(jobs);
  if (files === undefined) return <Loading what="the settings" />;
  const settings = jobs.map(settingsOf);
  const paths = [...new Set(settings.flatMap((own) => Object.keys(own)))].sort();
  const content = (value: string | undefined) => files.get(value ?? "")?.sha256 ?? value;
  const differs = (path: string) => new Set(settings.map((own) => content(own[path]))).size > 1;
  const shown = paths.filter((path) => everything || differs(path));
  return (
    <section>
      <h2>Differences</h2>
      <p class="soft">Two files are equal if their contents are equal, whatever their names.</p>
      <label class="row">
        <input type="checkbox" checked={everything} onChange={(event) => setEverything(event.currentTarget.checked)} />
        Show equal settings too
      </label>
      {shown.length === 0 ? (
        <p class="soft">These jobs have the same settings.</p>
      ) : (
        <div class="scroll fixed-first" tabIndex={0} role="region" aria-label="Settings">
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
                  {settings.map((own, index) => (
                    <td key={index} class="text">
                      <SettingValue value={own[path]} file={files.get(own[path] ?? "")} />
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

function SettingValue({ value, file }: { value: string | undefined; file: FileObject | undefined }) {
  if (!file) return <>{value ?? "–"}</>;
  return (
    <>
      <a href={`/ui/files/${file.id}`}>{file.filename}</a>
      <br />
      <small title={file.sha256}>sha256 {file.sha256.slice(0, 8)}</small>
    </>
  );
}
