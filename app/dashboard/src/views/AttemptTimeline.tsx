// A job's way from its creation to its end: time to the right, steps upwards, a band for each attempt.
import { duration } from "../format";
import type { Attempt, Job } from "../types";

const HEIGHT = 160;
const WIDTH = 1000;
const TICKS = [0, 0.25, 0.5, 0.75, 1];
/** A band of less than this share of the width has no room for its outcome beside its number. */
const NARROW = 0.1;

const OUTCOME_STYLES: Record<string, { icon: string; tone: string; text: string }> = {
  succeeded: { icon: "✓", tone: "good", text: "succeeded" },
  failed: { icon: "✕", tone: "bad", text: "failed" },
  crashed: { icon: "⚡", tone: "bad", text: "crashed" },
  lost_lease: { icon: "⚡", tone: "bad", text: "lost contact" },
  gpu_fault: { icon: "⚡", tone: "bad", text: "GPU broken" },
  dependency_down: { icon: "↻", tone: "hold", text: "waited for something" },
  drained: { icon: "↻", tone: "hold", text: "worker stopped" },
  preempted: { icon: "↻", tone: "hold", text: "made room" },
  paused: { icon: "❙❙", tone: "hold", text: "paused" },
  cancelled: { icon: "⊘", tone: "mute", text: "cancelled" },
};

export function outcomeStyle(outcome: string | null): { icon: string; tone: string; text: string } {
  if (outcome === null) return { icon: "▶", tone: "run", text: "running" };
  return OUTCOME_STYLES[outcome] ?? { icon: "•", tone: "mute", text: outcome };
}

/** What an attempt did, in a sentence. */
function describeAttempt(one: Attempt, took: number): string {
  const reached = one.last_step === null ? "no step" : `to step ${one.last_step}`;
  const steps = one.training_at === null ? "loading" : `from step ${one.resumed_from_step} ${reached}`;
  return `Attempt ${one.epoch}: ${steps} in ${duration(took)}, ${outcomeStyle(one.outcome).text}${one.reason ? `: ${one.reason}` : ""}`;
}

export function AttemptTimeline({ job, attempts, now }: { job: Job; attempts: Attempt[]; now: number }) {
  const trained = attempts.filter((one) => one.training_at !== null);
  const begin = job.created_at;
  const end = Math.max(begin + 1, job.finished_at ?? now);
  const share = (moment: number) => (Math.min(end, moment) - begin) / (end - begin);
  const total = Math.max(1, job.progress.total_steps ?? 0, ...attempts.map((one) => one.last_step ?? 0));
  const x = (moment: number) => share(moment) * WIDTH;
  const y = (step: number) => HEIGHT - 6 - (step / total) * (HEIGHT - 12);
  const ended = (one: Attempt) => one.ended_at ?? end;
  const reached = (one: Attempt) => one.last_step ?? one.resumed_from_step;
  const place = (one: Attempt) => ({
    left: `${share(one.started_at) * 100}%`,
    width: `${(share(ended(one)) - share(one.started_at)) * 100}%`,
  });
  return (
    <figure class="journey">
      <div class="scale" aria-hidden="true">
        <span>step {total.toLocaleString("en-US")}</span>
        <span>0</span>
      </div>
      <div
        class="plot"
        role="img"
        aria-label={attempts.map((one) => describeAttempt(one, ended(one) - one.started_at)).join(". ")}
      >
        {attempts.map((one) => (
          <div
            key={one.epoch}
            class={`band ${outcomeStyle(one.outcome).tone}`}
            style={place(one)}
            title={describeAttempt(one, ended(one) - one.started_at)}
          />
        ))}
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
          {trained.map((one, index) => {
            const next = trained[index + 1];
            return (
              <g key={one.epoch}>
                <line
                  class="climb"
                  x1={x(one.started_at)}
                  y1={y(one.resumed_from_step)}
                  x2={x(ended(one))}
                  y2={y(reached(one))}
                />
                {next && (
                  <line
                    class="fall"
                    x1={x(ended(one))}
                    y1={y(reached(one))}
                    x2={x(next.started_at)}
                    y2={y(next.resumed_from_step)}
                  />
                )}
              </g>
            );
          })}
        </svg>
        {attempts.map((one) => (
          <span key={one.epoch} class={`mark ${outcomeStyle(one.outcome).tone}`} style={place(one)}>
            {outcomeStyle(one.outcome).icon} {one.epoch}
            {share(ended(one)) - share(one.started_at) > NARROW && ` ${outcomeStyle(one.outcome).text}`}
          </span>
        ))}
      </div>
      <div class="ticks" aria-hidden="true">
        {TICKS.map((part) => (
          <span key={part}>{part === 0 ? "created" : duration((end - begin) * part)}</span>
        ))}
      </div>
      <figcaption class="soft">
        Solid: steps of an attempt. Dashed: without a worker; where it falls, steps since the last checkpoint are done
        again.
      </figcaption>
    </figure>
  );
}
