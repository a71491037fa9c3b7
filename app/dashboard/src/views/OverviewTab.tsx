// Overview of a job: its held-out results before and after training, and its charts.
import { useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, JOBS } from "../api";
import { type ChartSpec, chartSections, colour, isHeldOut, label } from "../chartSpecs";
import { Chart, type ChartChoices, type Line, type Zoom } from "../components/Chart";
import { ChartControls } from "../components/ChartControls";
import { ChartSections } from "../components/ChartSections";
import { EmptyState, ErrorNotice, Loading } from "../components/primitives";
import { chartVersion, useChartTables, useIsVisible } from "../jobMetrics";
import { isFinal, useGet } from "../liveData";
import { type JobMetrics, onSharedSteps } from "../metricTable";
import type { Attempt, Job } from "../types";
import { ControlText, useControlRun } from "./ControlResult";
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
  const control = useControlRun(job);
  const runs = useMemo(() => (metrics ? [{ job, metrics }, ...control] : []), [metrics, control, chartVersion(job)]);
  if (error && !table) return <ErrorNotice error={error} />;
  if (!table) return <Loading what="the metrics" />;
  const panel = (spec: ChartSpec, choices: ChartChoices) => (
    <MetricChart
      key={spec.title}
      spec={spec}
      choices={choices}
      runs={runs}
      markers={markers}
      smoothing={smoothing}
      zoom={zoom}
      setZoom={setZoom}
    />
  );
  return (
    <>
      <ControlText job={job} />
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
  /** The job and, if it has one, its control. */
  runs: { job: Job; metrics: JobMetrics }[];
  markers: number[];
  smoothing: number;
  zoom: Zoom | undefined;
  setZoom: (zoom: Zoom | undefined) => void;
}

function MetricChart({ spec, choices, runs, markers, smoothing, zoom, setZoom }: PanelProps) {
  const place = useRef<HTMLDivElement>(null);
  const isVisible = useIsVisible(place);
  const tables = useChartTables(runs, spec.names, zoom, isVisible);
  const { steps, lines } = useMemo(() => {
    const { steps, valuesOf } = onSharedSteps(tables);
    const lines = tables.flatMap((table, index) =>
      spec.names
        .map((name, position): Line & { name: string } => ({
          name,
          label: index ? (spec.names.length > 1 ? `control, ${label(name)}` : "control") : label(name),
          colour: colour(name, position),
          values: valuesOf(index, name),
          isExact: isHeldOut(name),
          isDashed: index > 0,
        }))
        .filter(({ name }) => index === 0 || table.series[name]?.some((value) => value !== null)),
    );
    return { steps, lines };
  }, [spec, ...tables]);
  const { title, hint, unit, isShare } = spec;
  return (
    <div ref={place}>
      <Chart
        {...{ title, hint, unit, isShare, steps, lines, markers, smoothing, isVisible, zoom, choices }}
        onZoom={setZoom}
      />
    </div>
  );
}
