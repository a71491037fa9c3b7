// Estimated time, memory and tokens of a job before it is created.
import { useEffect, useState } from "preact/hooks";
import { JOBS, post } from "../api";
import { bytes, duration, number, percent, plural } from "../format";
import type { EstimateRange, JobEstimate } from "../types";

/** The server's estimate of a valid request, given as text; empty until the estimate arrives. */
export function Estimate({ text }: { text: string }) {
  const [result, setResult] = useState<{ of: string; estimate: JobEstimate }>();
  useEffect(() => {
    let current = true;
    post<JobEstimate>(JOBS.replace("/jobs", "/estimate"), JSON.parse(text)).then(
      (estimate) => current && setResult({ of: text, estimate }),
      () => undefined, // the form works without an estimate
    );
    return () => {
      current = false;
    };
  }, [text]);
  if (!result) return null;
  const { estimate } = result;
  const { based_on: basis } = estimate;
  const grounds = basis.same_jobs
    ? `Estimated from ${plural(basis.same_jobs, "finished job")} of this model on this kind of machine`
    : basis.device_jobs
      ? `Estimated from ${plural(basis.device_jobs, "finished job")} of other models on this kind of machine`
      : "A rough guess: no job has finished here yet";
  return (
    <section class={`estimate ${result.of === text ? "" : "old"}`} aria-label="Estimate">
      <div class="tiles">
        <Tile title="duration" range={estimate.seconds} show={duration} none="unknown" />
        <Tile title="peak memory" range={estimate.peak_memory_bytes} show={bytes} none="unknown" />
        <Tile title="tokens" range={estimate.tokens.response} show={number} none="–" />
        <div class="tile">
          <span>rollouts</span>
          <strong>{number(estimate.rollouts)}</strong>
          <small>{plural(estimate.grader_calls, "grading call")}</small>
        </div>
      </div>
      <p class={estimate.verdict === "fits" ? "good" : "problem"}>
        {estimate.verdict === "fits" ? "✓" : estimate.verdict === "tight" ? "⚠" : "✕"} {estimate.reason}
      </p>
      {estimate.control && (
        <p>
          The control ({estimate.control.method}) trains first, in addition to this
          {estimate.control.seconds && `: about ${duration(estimate.control.seconds.expected)}`}.
        </p>
      )}
      <small>
        {grounds}.
        {basis.passing_share != null && ` About ${percent(basis.passing_share)} of the demonstrations pass the grader.`}
      </small>
    </section>
  );
}

function Tile(props: { title: string; range: EstimateRange | null; show: (value: number) => string; none: string }) {
  const { title, range, show, none } = props;
  return (
    <div class="tile">
      <span>{title}</span>
      <strong>{range ? show(range.expected) : none}</strong>
      <small>{range && `${show(range.low)} to ${show(range.high)}`}</small>
    </div>
  );
}
