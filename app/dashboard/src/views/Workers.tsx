// The workers: their hardware, state and jobs.

import { useState } from "preact/hooks";
import { EmptyState, ErrorNotice, Loading, Meter, RelativeTime, useTitle } from "../components/primitives";
import { bytes, plural } from "../format";
import { useGet, useProjectStream } from "../liveData";
import type { Page, Worker } from "../types";

const STATES: Record<string, { tone: string; icon: string; text: string; hint: string }> = {
  idle: { tone: "good", icon: "○", text: "Free", hint: "Starts the next job in the queue." },
  busy: { tone: "run", icon: "▶", text: "Busy", hint: "Runs as many jobs as it has slots." },
  draining: {
    tone: "hold",
    icon: "↻",
    text: "Stopping",
    hint: "Accepts no new jobs. Its running jobs resume on other workers.",
  },
  quarantined: {
    tone: "bad",
    icon: "⚡",
    text: "GPU fault",
    hint: "Accepts no jobs. Check its GPU, then restart the worker.",
  },
  lost: {
    tone: "bad",
    icon: "✕",
    text: "Lost",
    hint: "No heartbeat for longer than a lease. Its jobs resume on other workers.",
  },
};

export function Workers() {
  const [version, setVersion] = useState(0);
  const { value, error, reload } = useGet<Page<Worker>>("/v1/workers", version);
  // The state of workers changes with the jobs.
  useProjectStream(() => setVersion((old) => old + 1));
  useTitle("Workers");
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the workers" />;
  return (
    <>
      <div class="title">
        <h1>Workers</h1>
        <button type="button" onClick={reload}>
          Refresh
        </button>
      </div>
      {!value.data.length && (
        <EmptyState title="No workers are running">
          <p>
            Jobs wait in the queue until a worker starts. <code>grouptune up</code> starts workers with the service; on
            other machines, run the worker image.
          </p>
        </EmptyState>
      )}
      <div class="cards">
        {value.data.map((worker) => (
          <WorkerCard key={worker.id} worker={worker} />
        ))}
      </div>
    </>
  );
}

function WorkerCard({ worker }: { worker: Worker }) {
  const { hardware } = worker;
  const state = STATES[worker.status] ?? { tone: "mute", icon: "•", text: worker.status, hint: "" };
  const elsewhere = worker.running_jobs - worker.jobs.length;
  return (
    <article class="group" aria-label={worker.id}>
      <header>
        <h2>{worker.id}</h2>
        <span class={`pill ${state.tone}`} title={state.hint}>
          <span aria-hidden="true">{state.icon}</span> {state.text}
        </span>
      </header>
      <dl class="keys facts-list">
        <dt>device</dt>
        <dd>
          {hardware.accelerator ? (
            <>
              {hardware.accelerators} × {hardware.accelerator}
              {hardware.accelerator_memory_bytes !== null && `, ${bytes(hardware.accelerator_memory_bytes)} each`}
            </>
          ) : (
            `the CPU, ${plural(hardware.threads, "thread")} per trainer`
          )}
        </dd>
        <dt>machine</dt>
        <dd>
          {hardware.processor}, {plural(hardware.cores, "core")}, {bytes(hardware.memory_bytes)}
        </dd>
        <dt>runs</dt>
        <dd>{worker.queues.map((queue) => (queue === "train" ? "training" : "short tasks")).join(", ")}</dd>
        {worker.queues.includes("train") && (
          <>
            <dt>slots in use</dt>
            <dd>
              <Meter
                share={worker.running_jobs / Math.max(1, worker.slots)}
                label={`${worker.running_jobs} of ${worker.slots}`}
              />{" "}
              {worker.running_jobs} of {worker.slots}
            </dd>
          </>
        )}
        {worker.jobs.length > 0 && (
          <>
            <dt>jobs</dt>
            <dd>
              {worker.jobs.map((id) => (
                <div key={id}>
                  <a href={`/ui/jobs/${id}`}>{id}</a>
                </div>
              ))}
            </dd>
          </>
        )}
        {elsewhere > 0 && (
          <>
            <dt>other jobs</dt>
            <dd>{plural(elsewhere, "job")} of other projects</dd>
          </>
        )}
        {worker.reason && (
          <>
            <dt>takes no job</dt>
            <dd>{worker.reason}</dd>
          </>
        )}
        <dt>heartbeat</dt>
        <dd>
          <RelativeTime at={worker.last_seen} />, started <RelativeTime at={worker.started_at} />
        </dd>
      </dl>
    </article>
  );
}
