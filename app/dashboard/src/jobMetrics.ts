// The series behind charts. Short runs are read whole and grow; of long ones each chart asks for its own, thinned out.
import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "./api";
import { append, type Table } from "./chartSpecs";
import type { Zoom } from "./components/Chart";
import { isFinal } from "./liveData";
import type { Job, Series } from "./types";

/** Steps that a chart asks for at most. */
const POINTS = 1000;
/** What the lines of several runs share, and what each of them has at least. */
const SHARED_POINTS = 2000;
const LEAST_POINTS = 250;
const GROWTH = 1.02;

export interface JobMetrics {
  table: Table;
  /** The table lacks steps: only its names are to be relied on. */
  isSampled: boolean;
}

/** All series of a job; while it runs, only what is new is asked for. */
export function useJobMetrics(job: Job): { curves: JobMetrics | undefined; error: ApiError | undefined } {
  const [curves, setCurves] = useState<JobMetrics>();
  const [error, setError] = useState<ApiError>();
  const known = useRef<{ key: string; curves?: JobMetrics; busy?: boolean; again?: boolean }>({ key: "" });
  const key = `${job.id}/${job.attempt}`;
  useEffect(() => {
    if (known.current.key !== key) known.current = { key };
    const mine = known.current;
    const load = () => {
      if (mine.curves?.isSampled) return;
      if (mine.busy) {
        mine.again = true;
        return;
      }
      mine.busy = true;
      const old = mine.curves?.table;
      // The last step is read again: its evaluation may have come after it.
      get<Series>(query(`${JOBS}/${job.id}/metrics`, { points: POINTS, step_from: old?.steps.at(-1) })).then(
        (next) => {
          mine.busy = false;
          if (known.current !== mine) return;
          const table = old ? append(old, next) : next;
          mine.curves = { table, isSampled: next.is_sampled || table.steps.length > 2 * POINTS };
          setCurves(mine.curves);
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
  return { curves, error };
}

/** Changes with a job's steps, ever more rarely: the picture of 10,000 steps does not change with one more. */
export function stage(job: Job): number {
  return isFinal(job) ? -1 : Math.floor(Math.log(job.progress.step + 1) / Math.log(GROWTH));
}

/** What a chart shows of `names` for each of these runs; nothing is asked for while it is not `isVisible`. */
export function useChartTables(
  runs: { job: Job; curves: JobMetrics }[],
  names: string[],
  zoom: Zoom | undefined,
  isVisible: boolean,
): Table[] {
  const [finer, setFiner] = useState<Record<string, Table>>({});
  const asked = useRef(new Map<string, string>());
  useEffect(() => {
    if (!isVisible) return;
    const points = Math.min(POINTS, Math.max(LEAST_POINTS, Math.floor(SHARED_POINTS / runs.length)));
    for (const { job, curves } of runs) {
      if (!curves.isSampled) continue;
      const wanted = names.filter((name) => name in curves.table.series);
      const path = query(`${JOBS}/${job.id}/metrics`, {
        names: wanted.join(),
        points,
        step_from: zoom?.[0],
        step_to: zoom?.[1],
      });
      const version = `${path} ${stage(job)}`;
      if (!wanted.length || asked.current.get(job.id) === version) continue;
      asked.current.set(job.id, version);
      get<Series>(path).then(
        (table) => asked.current.get(job.id) === version && setFiner((old) => ({ ...old, [job.id]: table })),
        () => asked.current.delete(job.id), // what was there stays; the next step asks again
      );
    }
  }, [runs, names.join(), zoom?.[0], zoom?.[1], isVisible]);
  return runs.map(({ job, curves }) => (curves.isSampled ? (finer[job.id] ?? EMPTY) : curves.table));
}

const EMPTY: Table = { steps: [], series: {} };

/** Whether an element is in sight, or near it. */
export function useIsVisible(element: RefObject<HTMLElement>): boolean {
  const [isVisible, setSeen] = useState(false);
  useEffect(() => {
    if (!element.current) return;
    const observer = new IntersectionObserver((found) => setSeen(found.at(-1)?.isIntersecting ?? false), {
      rootMargin: "200px",
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return isVisible;
}
