// The attempts of a job: the steps of each, why it ended, and which steps were repeated.
import { useEffect, useState } from "preact/hooks";
import { JOBS } from "../api";
import { DataTable } from "../components/DataTable";
import { EmptyState, ErrorNotice, Loading, RelativeTime } from "../components/primitives";
import { duration, plural } from "../format";
import { isFinal, useGet } from "../liveData";
import type { Attempt, Job } from "../types";
import { AttemptTimeline, outcomeStyle } from "./AttemptTimeline";

const REASONS: Record<string, string> = {
  succeeded: "Training finished",
  paused: "The job was paused",
  cancelled: "The job was cancelled",
};

export function AttemptsTab({ job }: { job: Job }) {
  // Each step of a running job moves the end of its line.
  const { value, error, reload } = useGet<{ data: Attempt[] }>(
    `${JOBS}/${job.id}/attempts`,
    `${job.attempt} ${job.status} ${job.progress.step}`,
  );
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    if (isFinal(job)) return;
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [job.status]);
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the attempts" />;
  const attempts = value.data;
  if (!attempts.length) {
    return (
      <EmptyState title="No attempts yet">
        <p>
          {isFinal(job)
            ? "The job ended before a worker started it."
            : "A free worker starts the job automatically. Each start, crash and resume appears here."}
        </p>
      </EmptyState>
    );
  }
  return (
    <>
      <AttemptTotals job={job} attempts={attempts} now={now} />
      <AttemptTimeline job={job} attempts={attempts} now={now} />
      <DataTable
        label="Attempts"
        columns={["Attempt", "Outcome", "Steps", "Started", "Duration", "Worker", "Why it ended"]}
      >
        {attempts.map((attempt) => (
          <AttemptRow key={attempt.epoch} attempt={attempt} repeated={repeatedSteps(attempt, attempts)} now={now} />
        ))}
      </DataTable>
    </>
  );
}

/** Returns how many steps of an attempt the next training attempt repeated. */
function repeatedSteps(attempt: Attempt, attempts: Attempt[]): number {
  const next = attempts.find((other) => other.epoch > attempt.epoch && other.training_at !== null);
  return next && attempt.last_step !== null ? Math.max(0, attempt.last_step - next.resumed_from_step) : 0;
}

function AttemptTotals({ job, attempts, now }: { job: Job; attempts: Attempt[]; now: number }) {
  const end = job.finished_at ?? now;
  const training = attempts.reduce((sum, attempt) => sum + (attempt.ended_at ?? end) - attempt.started_at, 0);
  const repeated = attempts.reduce((sum, attempt) => sum + repeatedSteps(attempt, attempts), 0);
  const tiles = [
    ["attempts", String(attempts.length), "each resumes from the last checkpoint"],
    ["with a worker", duration(training), "loading, training, evaluating"],
    ["without a worker", duration(end - job.created_at - training), "queued, paused, between attempts"],
    ["repeated", plural(repeated, "step"), "trained after the last checkpoint, then lost"],
  ] as const;
  return (
    <div class="tiles">
      {tiles.map(([title, text, hint]) => (
        <div class="tile" key={title}>
          <span>{title}</span>
          <strong>{text}</strong>
          <small>{hint}</small>
        </div>
      ))}
    </div>
  );
}

function AttemptRow({ attempt, repeated, now }: { attempt: Attempt; repeated: number; now: number }) {
  const { outcome, last_step: last, resumed_from_step: first } = attempt;
  return (
    <tr>
      <td>{attempt.epoch}</td>
      <td>
        <span class={`pill ${outcomeStyle(outcome).tone}`}>
          <span aria-hidden="true">{outcomeStyle(outcome).icon}</span> {outcomeStyle(outcome).text}
        </span>
      </td>
      <td class="nowrap">
        {attempt.training_at === null
          ? "none (loading)"
          : last === null || last <= first
            ? `none after ${first}`
            : `${first + 1} – ${last}`}
        {repeated > 0 && <small> · {repeated} repeated later</small>}
      </td>
      <td>
        <RelativeTime at={attempt.started_at} />
      </td>
      <td class="nowrap">{duration((attempt.ended_at ?? now) - attempt.started_at)}</td>
      <td class="cut">
        <code>{attempt.worker}</code>
      </td>
      <td class="text">{attempt.reason ?? REASONS[outcome ?? ""] ?? "–"}</td>
    </tr>
  );
}
