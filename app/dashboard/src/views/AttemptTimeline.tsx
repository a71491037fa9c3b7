// Timeline of a job's attempts: time on the x axis, steps on the y axis, one band per attempt.
import { duration, plural } from "../format";
import type { Attempt, Job } from "../types";

const HEIGHT = 160;
const WIDTH = 1000;
const TICKS = [0, 0.25, 0.5, 0.75, 1];
/** A band narrower than this share of the width has no room for its outcome next to its number. */
const NARROW = 0.1;

const OUTCOME_STYLES: Record<string, { icon: string; tone: string; text: string }> = {
  succeeded: { icon: "✓", tone: "good", text: "succeeded" },
  failed: { icon: "✕", tone: "bad", text: "failed" },
  crashed: { icon: "⚡", tone: "bad", text: "crashed" },
  lost_lease: { icon: "⚡", tone: "bad", text: "lost lease" },
  gpu_fault: { icon: "⚡", tone: "bad", text: "GPU fault" },
  dependency_down: { icon: "↻", tone: "hold", text: "dependency down" },
  drained: { icon: "↻", tone: "hold", text: "worker drained" },
  preempted: { icon: "↻", tone: "hold", text: "preempted" },
  paused: { icon: "❙❙", tone: "hold", text: "paused" },
  cancelled: { icon: "⊘", tone: "mute", text: "cancelled" },
};

export function outcomeStyle(outcome: string | null): { icon: string; tone: string; text: string } {
  if (outcome === null) return { icon: "▶", tone: "run", text: "running" };
  return OUTCOME_STYLES[outcome] ?? { icon: "•", tone: "mute", text: outcome };
}

/** Describes an attempt in one sentence. */
function describeAttempt(attempt: Attempt, took: number): string {
  const reached = attempt.last_step === null ? "no step" : `to step ${attempt.last_step}`;
  const steps = attempt.training_at === null ? "loading" : `from step ${attempt.resumed_from_step} ${reached}`;
  const workers = attempt.members.length ? ` on ${plural(attempt.members.length + 1, "worker")}` : "";
  return `Attempt ${attempt.epoch}${workers}: ${steps} in ${duration(took)}, ${outcomeStyle(attempt.outcome).text}${attempt.reason ? `: ${attempt.reason}` : ""}`;
}

export function AttemptTimeline({ job, attempts, now }: { job: Job; attempts: Attempt[]; now: number }) {
  const trained = attempts.filter((attempt) => attempt.training_at !== null);
  const begin = job.created_at;
  const end = Math.max(begin + 1, job.finished_at ?? now);
  const share = (moment: number) => (Math.min(end, moment) - begin) / (end - begin);
  const total = Math.max(1, job.progress.total_steps ?? 0, ...attempts.map((attempt) => attempt.last_step ?? 0));
  const x = (moment: number) => share(moment) * WIDTH;
  const y = (step: number) => HEIGHT - 6 - (step / total) * (HEIGHT - 12);
  const ended = (attempt: Attempt) => attempt.ended_at ?? end;
  const reached = (attempt: Attempt) => attempt.last_step ?? attempt.resumed_from_step;
  const place = (attempt: Attempt) => ({
    left: `${share(attempt.started_at) * 100}%`,
    width: `${(share(ended(attempt)) - share(attempt.started_at)) * 100}%`,
  });
  return (
    <figure class="attempt-timeline">
      <div class="scale" aria-hidden="true">
        <span>step {total.toLocaleString("en-US")}</span>
        <span>0</span>
      </div>
      <div
        class="plot"
        role="img"
        aria-label={attempts.map((attempt) => describeAttempt(attempt, ended(attempt) - attempt.started_at)).join(". ")}
      >
        {attempts.map((attempt) => (
          <div
            key={attempt.epoch}
            class={`band ${outcomeStyle(attempt.outcome).tone}`}
            style={place(attempt)}
            title={describeAttempt(attempt, ended(attempt) - attempt.started_at)}
          />
        ))}
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
          {trained.map((attempt, index) => {
            const next = trained[index + 1];
            return (
              <g key={attempt.epoch}>
                <line
                  class="climb"
                  x1={x(attempt.started_at)}
                  y1={y(attempt.resumed_from_step)}
                  x2={x(ended(attempt))}
                  y2={y(reached(attempt))}
                />
                {next && (
                  <line
                    class="fall"
                    x1={x(ended(attempt))}
                    y1={y(reached(attempt))}
                    x2={x(next.started_at)}
                    y2={y(next.resumed_from_step)}
                  />
                )}
              </g>
            );
          })}
        </svg>
        {attempts.map((attempt) => (
          <span key={attempt.epoch} class={`mark ${outcomeStyle(attempt.outcome).tone}`} style={place(attempt)}>
            {outcomeStyle(attempt.outcome).icon} {attempt.epoch}
            {share(ended(attempt)) - share(attempt.started_at) > NARROW && ` ${outcomeStyle(attempt.outcome).text}`}
          </span>
        ))}
      </div>
      <div class="ticks" aria-hidden="true">
        {TICKS.map((part) => (
          <span key={part}>{part === 0 ? "created" : duration((end - begin) * part)}</span>
        ))}
      </div>
      <figcaption class="soft">
        Solid line: the steps of an attempt. Dashed line: no worker; where it falls, the steps since the last checkpoint
        are repeated.
      </figcaption>
    </figure>
  );
}
