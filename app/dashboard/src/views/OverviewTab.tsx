// Overview of a job: its held-out results before and after training, and its charts.
import { useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, JOBS } from "../api";
import { type ChartSpec, chartSections, colour, isHeldOut, label } from "../chartSpecs";
import { Chart, type ChartChoices, type Zoom } from "../components/Chart";
import { ChartControls } from "../components/ChartControls";
import { ChartSections } from "../components/ChartSections";
import { EmptyState, ErrorNotice, Loading } from "../components/primitives";
import { chartVersion, useChartTables, useIsVisible } from "../jobMetrics";
import { isFinal, useGet } from "../liveData";
import type { JobMetrics } from "../metricTable";
import type { Attempt, Job } from "../types";
import { HeldOutResults } from "./HeldOutResults";
import { methodOf } from "./Jobs";
import { VerdictText } from "./ModelVerdict";

interface OverviewProps {
  job: Job;
  metrics: JobMetrics | undefined;
  error: ApiError | undefined;
}

export function OverviewTab({ job, metrics, error }: OverviewProps) {
  const [smoothing, setSmoothing] = useState(0);
  const [zoom, setZoom] = useState<Zoom>();
  const attempts = useGet<{ data: Attempt[] }>(`${JOBS}/${job.id}/attempts`, job.attempt);
  const markers = useMemo(
    () =>
      (attempts.value?.data ?? []).filter((attempt) => attempt.epoch > 1).map((attempt) => attempt.resumed_from_step),
    [attempts.value],
  );
  const table = metrics?.table;
  const sections = useMemo(() => {
    const filled = Object.entries(table?.series ?? {}).filter(([, values]) => values.some((value) => value !== null));
    return chartSections(
      filled.map(([name]) => name),
      [methodOf(job)],
    );
  }, [table]);
  const run = useMemo(() => (metrics ? [{ job, metrics }] : []), [metrics, chartVersion(job)]);
  if (error && !table) return <ErrorNotice error={error} />;
  if (!table) return <Loading what="the metrics" />;
  const panel = (spec: ChartSpec, choices: ChartChoices) => (
    <MetricChart
      key={spec.title}
      spec={spec}
      choices={choices}
      run={run}
      markers={markers}
      smoothing={smoothing}
      zoom={zoom}
      setZoom={setZoom}
    />
  );
  return (
    <>
      <VerdictText job={job} />
      <HeldOutResults evaluation={job.evaluation} />
      {(table.steps.at(-1) ?? 0) === 0 ? (
        <EmptyState title={isFinal(job) ? "No steps completed" : "No steps yet"}>
          <p>
            {isFinal(job) ? (
              <>
                The job ended before its first step. Its <a href={`/ui/jobs/${job.id}/events`}>events</a> explain why.
              </>
            ) : (
              "Charts appear with the first step, after the model is loaded and evaluated."
            )}
          </p>
        </EmptyState>
      ) : (
        <>
          <ChartControls
            smoothing={smoothing}
            setSmoothing={setSmoothing}
            zoom={zoom}
            setZoom={setZoom}
            last={table.steps.at(-1) ?? 0}
          >
            <a class="button" href={`${JOBS}/${job.id}/metrics?format=csv`} download={`${job.id}.csv`}>
              Download CSV
            </a>
          </ChartControls>
          <ChartSections sections={sections} panel={panel} />
        </>
      )}
    </>
  );
}

interface PanelProps {
  spec: ChartSpec;
  choices: ChartChoices;
  run: { job: Job; metrics: JobMetrics }[];
  markers: number[];
  smoothing: number;
  zoom: Zoom | undefined;
  setZoom: (zoom: Zoom | undefined) => void;
}

function MetricChart({ spec, choices, run, markers, smoothing, zoom, setZoom }: PanelProps) {
  const place = useRef<HTMLDivElement>(null);
  const isVisible = useIsVisible(place);
  const [table] = useChartTables(run, spec.names, zoom, isVisible);
  const lines = useMemo(
    () =>
      spec.names.map((name, position) => ({
        label: label(name),
        colour: colour(name, position),
        values: table?.series[name] ?? [],
        isExact: isHeldOut(name),
      })),
    [spec, table],
  );
  const { title, hint, unit, isShare } = spec;
  return (
    <div ref={place}>
      <Chart
        {...{ title, hint, unit, isShare, lines, markers, smoothing, isVisible, zoom, choices }}
        steps={table?.steps ?? []}
        onZoom={setZoom}
      />
    </div>
  );
}
