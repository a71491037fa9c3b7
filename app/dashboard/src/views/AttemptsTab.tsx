// Every time that a worker took the job up: how far it came, why it ended, and what was lost in between.
import { useEffect, useState } from "preact/hooks";
import { JOBS } from "../api";
import { EmptyState, ErrorNotice, Loading, RelativeTime } from "../components/primitives";
import { duration, plural } from "../format";
import { isFinal, useGet } from "../liveData";
import type { Attempt, Job } from "../types";
import { AttemptTimeline, outcomeStyle } from "./AttemptTimeline";

const REASONS: Record<string, string> = {
  succeeded: "Training was finished",
  paused: "It was paused on request",
  cancelled: "The job was cancelled",
};

export function AttemptsTab({ job }: { job: Job }) {
  // While a job runs, each step moves the end of its line.
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
            ? "No worker had taken this job up when it ended."
            : "A free worker takes the job up by itself. Crashes, stops and resumes will show here."}
        </p>
      </EmptyState>
    );
  }
  return (
    <>
      <AttemptTotals job={job} attempts={attempts} now={now} />
      <AttemptTimeline job={job} attempts={attempts} now={now} />
      <div class="scroll" tabIndex={0} role="region" aria-label="Attempts">
        <table>
          <thead>
            <tr>
              <th>Attempt</th>
              <th>Outcome</th>
              <th>Steps</th>
              <th>Started</th>
              <th>Took</th>
              <th>Worker</th>
              <th>Why it ended</th>
            </tr>
          </thead>
          <tbody>
            {attempts.map((one) => (
              <AttemptRow key={one.epoch} attempt={one} again={repeatedSteps(one, attempts)} now={now} />
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** Steps of an attempt that the next one that trained had to do again. */
function repeatedSteps(one: Attempt, attempts: Attempt[]): number {
  const next = attempts.find((other) => other.epoch > one.epoch && other.training_at !== null);
  return next && one.last_step !== null ? Math.max(0, one.last_step - next.resumed_from_step) : 0;
}

function AttemptTotals({ job, attempts, now }: { job: Job; attempts: Attempt[]; now: number }) {
  const end = job.finished_at ?? now;
  const training = attempts.reduce((sum, one) => sum + (one.ended_at ?? end) - one.started_at, 0);
  const again = attempts.reduce((sum, one) => sum + repeatedSteps(one, attempts), 0);
  const tiles = [
    ["attempts", String(attempts.length), "each goes on from the last checkpoint"],
    ["with a worker", duration(training), "loading, training, evaluating"],
    ["without one", duration(end - job.created_at - training), "queued, paused, between attempts"],
    ["done twice", plural(again, "step"), "since the last checkpoint before a stop"],
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

function AttemptRow({ attempt, again, now }: { attempt: Attempt; again: number; now: number }) {
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
          ? "none: it was loading"
          : last === null || last <= first
            ? `none after ${first}`
            : `${first + 1} – ${last}`}
        {again > 0 && <small> · {again} of them again later</small>}
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
