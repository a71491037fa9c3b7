// The metrics behind charts. Short runs are read whole once and then grow with the job's event stream. Of long runs each
// chart requests its own series, thinned out by the server.
import type { RefObject } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "./api";
import type { Zoom } from "./components/Chart";
import { followJob, isFinal, lastEventId, useGet } from "./liveData";
import { addRows, combine, type JobMetrics, type MetricTable, NO_ROWS, rowsOf, type StreamedRows } from "./metricTable";
import type { Job, JobEvent, Series } from "./types";

/** Most steps that a chart requests. */
const POINTS = 1000;
/** Steps that the lines of several runs share, and the least that each of them gets. */
const SHARED_POINTS = 2000;
const LEAST_POINTS = 250;
const GROWTH = 1.02;

/**
 * A job's metrics: its history, requested once per `version`, and the rows of its stream. The stream must be subscribed to
 * before `id` is given; null requests nothing.
 */
export function useJobMetrics(
  id: string | null,
  streamed: StreamedRows,
  version: number | string = 0,
): { metrics: JobMetrics | undefined; error: ApiError | undefined } {
  const { value, error } = useGet<Series>(id && query(`${JOBS}/${id}/metrics`, { points: POINTS }), version);
  const metrics = useMemo(() => value && combine(value, streamed), [value, streamed]);
  return { metrics, error };
}

/** The rows of a job's stream from now on; `isReady` once the subscription cannot miss a step any more. */
export function useStreamedRows(id: string, isStreamed: boolean): { streamed: StreamedRows; isReady: boolean } {
  const [streamed, setStreamed] = useState(NO_ROWS);
  const [isReady, setReady] = useState(!isStreamed);
  useEffect(() => {
    if (!isStreamed) return;
    let stop: (() => void) | undefined;
    let hasLeft = false;
    const onEvents = (events: JobEvent[]) => setStreamed((old) => addRows(old, events.flatMap(rowsOf)));
    lastEventId(id).then(
      (after) => {
        if (hasLeft) return;
        stop = followJob(id, after, { onEvents });
        setReady(true);
      },
      () => setReady(true),
    ); // without the stream, the history alone is shown
    return () => {
      hasLeft = true;
      stop?.();
    };
  }, [id, isStreamed]);
  return { streamed, isReady };
}

/** Changes as a job progresses, less and less often: one more step hardly changes a chart of 10,000 steps. */
export function chartVersion(job: Job): number {
  return isFinal(job) ? -1 : Math.floor(Math.log(job.progress.step + 1) / Math.log(GROWTH));
}

/** What a chart shows of the metrics `names` for each of these runs; a chart out of sight requests nothing. */
export function useChartTables(
  runs: { job: Job; metrics: JobMetrics }[],
  names: string[],
  zoom: Zoom | undefined,
  isVisible: boolean,
): MetricTable[] {
  const [finer, setFiner] = useState<Record<string, MetricTable>>({});
  const requested = useRef(new Map<string, string>());
  useEffect(() => {
    if (!isVisible) return;
    const points = Math.min(POINTS, Math.max(LEAST_POINTS, Math.floor(SHARED_POINTS / runs.length)));
    for (const { job, metrics } of runs) {
      if (!metrics.isSampled) continue;
      const measured = names.filter((name) => name in metrics.table.series);
      const path = query(`${JOBS}/${job.id}/metrics`, {
        names: measured.join(),
        points,
        step_from: zoom?.[0],
        step_to: zoom?.[1],
      });
      const version = `${path} ${chartVersion(job)}`;
      if (!measured.length || requested.current.get(job.id) === version) continue;
      requested.current.set(job.id, version);
      get<Series>(path).then(
        (table) => requested.current.get(job.id) === version && setFiner((old) => ({ ...old, [job.id]: table })),
        () => requested.current.delete(job.id), // the old table stays until the next step requests a new one
      );
    }
  }, [runs, names.join(), zoom?.[0], zoom?.[1], isVisible]);
  return runs.map(({ job, metrics }) => (metrics.isSampled ? (finer[job.id] ?? EMPTY) : metrics.table));
}

const EMPTY: MetricTable = { steps: [], series: {} };

/** Whether an element is in sight, or near it. */
export function useIsVisible(element: RefObject<HTMLElement>): boolean {
  const [isVisible, setVisible] = useState(false);
  useEffect(() => {
    if (!element.current) return;
    const observer = new IntersectionObserver((entries) => setVisible(entries.at(-1)?.isIntersecting ?? false), {
      rootMargin: "200px",
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return isVisible;
}
