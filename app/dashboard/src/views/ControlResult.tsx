// The control of a job: a second job with another method, which trains first and which the job is compared with.
import { useMemo } from "preact/hooks";
import { JOBS } from "../api";
import { useJobMetrics } from "../jobMetrics";
import { isFinal, useGet } from "../liveData";
import { type JobMetrics, NO_ROWS } from "../metricTable";
import type { Job } from "../types";
import { VERDICTS } from "./ModelVerdict";

/** The comparison in words; before it is made, what the control does. */
export function ControlText({ job }: { job: Job }) {
  if (job.control_of) {
    return (
      <p class="soft verdict">
        This job is the control of <a href={`/ui/jobs/${job.control_of}`}>{job.control_of}</a>, which starts when this
        job has ended.
      </p>
    );
  }
  const { control } = job;
  if (!control) return null;
  const link = control.job_id ? <a href={`/ui/jobs/${control.job_id}`}>control</a> : "control";
  if (!control.reason) {
    const isOver = control.status === null || isFinal({ status: control.status });
    return (
      <p class="soft verdict">
        {isOver || isFinal(job) ? "The" : "Waits for the"} {link} ({control.method}
        {control.status && `, ${control.status.replaceAll("_", " ")}`}).{" "}
        {!isFinal(job) && "The comparison follows when this job has ended."}
      </p>
    );
  }
  const verdict = control.verdict ? VERDICTS[control.verdict] : undefined;
  return (
    <p class={`verdict ${control.verdict === "worse" ? "notice bad" : ""}`}>
      {verdict && (
        <span class={`pill ${verdict.tone}`} aria-hidden="true">
          {verdict.icon}
        </span>
      )}{" "}
      <strong>{control.reason}</strong> <small>(compared with its {link}, dashed in the charts)</small>
    </p>
  );
}

/** The control of a job with its metrics, once it has ended; empty before, and without one. */
export function useControlRun(job: Job): { job: Job; metrics: JobMetrics }[] {
  const { job_id, status } = job.control ?? {};
  const id = job_id && status && isFinal({ status }) ? job_id : null;
  const { value: control } = useGet<Job>(id && `${JOBS}/${id}`);
  const { metrics } = useJobMetrics(id, NO_ROWS);
  return useMemo(() => (control && metrics ? [{ job: control, metrics }] : []), [control, metrics]);
}
