// What a job would take, before it is created.
import { useEffect, useState } from "preact/hooks";
import { JOBS, post } from "../api";
import { bytes, duration, number, plural } from "../format";
import type { EstimateRange, JobEstimate } from "../types";

/** The server's estimate of a request that it has found valid; none while there is none. */
export function Estimate({ text }: { text: string }) {
  const [made, setMade] = useState<{ of: string; estimate: JobEstimate }>();
  useEffect(() => {
    let current = true;
    post<JobEstimate>(JOBS.replace("/jobs", "/estimate"), JSON.parse(text)).then(
      (estimate) => current && setMade({ of: text, estimate }),
      () => undefined, // the form stands without it
    );
    return () => {
      current = false;
    };
  }, [text]);
  if (!made) return null;
  const { estimate } = made;
  const { based_on: basis } = estimate;
  const grounds = basis.same_jobs
    ? `Estimated from ${plural(basis.same_jobs, "finished job")} of this model on such a machine`
    : basis.device_jobs
      ? `Estimated from ${plural(basis.device_jobs, "finished job")} of other models on such a machine`
      : "A guess until a first job has finished here";
  return (
    <section class={`estimate ${made.of === text ? "" : "old"}`} aria-label="Estimate">
      <div class="tiles">
        <Tile title="takes about" range={estimate.seconds} show={duration} none="unknown" />
        <Tile title="memory at its peak" range={estimate.peak_memory_bytes} show={bytes} none="unknown" />
        <Tile title="tokens" range={estimate.tokens.response} show={number} none="–" />
        <div class="tile">
          <span>answers to be written</span>
          <strong>{number(estimate.rollouts)}</strong>
          <small>{plural(estimate.grader_calls, "grade")}</small>
        </div>
      </div>
      <p class={estimate.verdict === "fits" ? "good" : "problem"}>
        {estimate.verdict === "fits" ? "✓" : estimate.verdict === "tight" ? "⚠" : "✕"} {estimate.reason}
      </p>
      <small>{grounds}.</small>
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
