// The machines that train: what they have, and what they are at.

import { useState } from "preact/hooks";
import { EmptyState, ErrorNotice, Loading, Meter, RelativeTime, useTitle } from "../components/primitives";
import { bytes, plural } from "../format";
import { useGet, useProjectStream } from "../liveData";
import type { Page, Worker } from "../types";

const STATES: Record<string, { tone: string; icon: string; text: string; hint: string }> = {
  idle: { tone: "good", icon: "○", text: "Free", hint: "It takes the next job of the queue." },
  busy: { tone: "run", icon: "▶", text: "Busy", hint: "It is at work." },
  draining: {
    tone: "hold",
    icon: "↻",
    text: "Stopping",
    hint: "It takes no more jobs; what it trains goes on elsewhere.",
  },
  quarantined: {
    tone: "bad",
    icon: "⚡",
    text: "GPU broken",
    hint: "It takes no jobs. Check its GPU, then restart it.",
  },
  lost: {
    tone: "bad",
    icon: "✕",
    text: "Lost",
    hint: "Nothing was heard of it for longer than a lease; its jobs go on elsewhere.",
  },
};

export function Workers() {
  const [version, setVersion] = useState(0);
  const { value, error, reload } = useGet<Page<Worker>>("/v1/workers", version);
  // A worker's state changes with the jobs.
  useProjectStream(() => setVersion((old) => old + 1));
  useTitle("Workers");
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the workers" />;
  return (
    <>
      <div class="title">
        <h1>Workers</h1>
        <button type="button" onClick={reload}>
          Look again
        </button>
      </div>
      {!value.data.length && (
        <EmptyState title="No worker is here">
          <p>
            Jobs wait in the queue until one is. <code>grouptune up</code> starts them with the service; on other
            machines the worker image does.
          </p>
        </EmptyState>
      )}
      <div class="cards">
        {value.data.map((one) => (
          <WorkerCard key={one.id} worker={one} />
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
        <dt>trains on</dt>
        <dd>
          {hardware.accelerator ? (
            <>
              {hardware.accelerators} × {hardware.accelerator}
              {hardware.accelerator_memory_bytes !== null && `, ${bytes(hardware.accelerator_memory_bytes)} each`}
            </>
          ) : (
            `the CPU, ${plural(hardware.threads, "thread")} a trainer`
          )}
        </dd>
        <dt>machine</dt>
        <dd>
          {hardware.processor}, {plural(hardware.cores, "core")}, {bytes(hardware.memory_bytes)}
        </dd>
        <dt>does</dt>
        <dd>{worker.queues.map((one) => (one === "train" ? "training" : "short tasks")).join(", ")}</dd>
        {worker.queues.includes("train") && (
          <>
            <dt>at work</dt>
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
            <dt>trains</dt>
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
            <dt>and</dt>
            <dd>{plural(elsewhere, "job")} of other projects</dd>
          </>
        )}
        <dt>heard of</dt>
        <dd>
          <RelativeTime at={worker.last_seen} />, up since <RelativeTime at={worker.started_at} />
        </dd>
      </dl>
    </article>
  );
}
