// Every time that a worker took the job up, on one line of time.
import { useEffect, useState } from "preact/hooks";
import { JOBS } from "../api";
import { Empty, Failure, Loading, Time } from "../components/Basics";
import { duration, plural } from "../format";
import { isFinal, useGet } from "../live";
import type { Attempt, Job } from "../types";

const LOOKS: Record<string, { icon: string; tone: string }> = {
  succeeded: { icon: "✓", tone: "good" },
  failed: { icon: "✕", tone: "bad" },
  crashed: { icon: "⚡", tone: "bad" },
  lost_lease: { icon: "⚡", tone: "bad" },
  gpu_fault: { icon: "⚡", tone: "bad" },
  dependency_down: { icon: "↻", tone: "hold" },
  drained: { icon: "↻", tone: "hold" },
  preempted: { icon: "↻", tone: "hold" },
  paused: { icon: "❙❙", tone: "hold" },
  cancelled: { icon: "⊘", tone: "mute" },
};
const look = (outcome: string | null) => (outcome === null ? { icon: "▶", tone: "run" } : (LOOKS[outcome] ?? { icon: "•", tone: "hold" }));

export function Attempts({ job }: { job: Job }) {
  const { value, error, reload } = useGet<{ data: Attempt[] }>(`${JOBS}/${job.id}/attempts`, `${job.attempt}${job.status}`);
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    if (isFinal(job)) return;
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [job.status]);
  if (error) return <Failure error={error} retry={reload} />;
  if (!value) return <Loading what="the attempts" />;
  const attempts = value.data;
  const first = attempts[0];
  if (!first) {
    return (
      <Empty title="No attempts yet">
        <p>A free worker takes the job up by itself. Crashes, stops and resumes will show here.</p>
      </Empty>
    );
  }
  const end = Math.max(...attempts.map((one) => one.ended_at ?? now));
  const span = Math.max(1, end - first.started_at);
  const place = (moment: number) => ((moment - first.started_at) / span) * 100;
  return (
    <>
      <p class="soft">
        {plural(attempts.length, "attempt")} in {duration(span)}. A job that is interrupted goes on from its last
        checkpoint; nothing before it is lost.
      </p>
      <div class="timeline" role="img" aria-label={attempts.map(describe).join("; ")}>
        {attempts.map((one) => (
          <div class="lane" key={one.epoch}>
            <span
              class={`span ${look(one.outcome).tone}`}
              style={{
                left: `${place(one.started_at)}%`,
                width: `${Math.max(0.6, place(one.ended_at ?? now) - place(one.started_at))}%`,
              }}
            >
              {look(one.outcome).icon} {one.epoch}
            </span>
          </div>
        ))}
        <div class="ticks" aria-hidden="true">
          {[0, 0.25, 0.5, 0.75, 1].map((share) => (
            <span key={share}>{duration(span * share)}</span>
          ))}
        </div>
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label="Attempts">
        <table>
          <thead>
            <tr>
              <th>Attempt</th>
              <th>Outcome</th>
              <th>From step</th>
              <th>Started</th>
              <th>Took</th>
              <th>Worker</th>
              <th>Why it ended</th>
            </tr>
          </thead>
          <tbody>
            {attempts.map((one) => (
              <tr key={one.epoch}>
                <td>{one.epoch}</td>
                <td>
                  <span class={`pill ${look(one.outcome).tone}`}>
                    <span aria-hidden="true">{look(one.outcome).icon}</span> {one.outcome ?? "running"}
                  </span>
                </td>
                <td>{one.resumed_from_step}</td>
                <td>
                  <Time at={one.started_at} />
                </td>
                <td>{duration((one.ended_at ?? now) - one.started_at)}</td>
                <td class="cut">{one.worker}</td>
                <td class="text">{one.reason ?? "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

const describe = (one: Attempt): string =>
  `attempt ${one.epoch} from step ${one.resumed_from_step}: ${one.outcome ?? "running"}`;
