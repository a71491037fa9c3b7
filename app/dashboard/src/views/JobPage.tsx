// One job: its state, its controls, and a tab for each aspect.

import { useRef, useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { type ApiError, JOBS, post } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { CopyButton, ErrorNotice, Loading, RelativeTime, StatusBadge, useTitle } from "../components/primitives";
import { useIsLost } from "../connection";
import { duration } from "../format";
import { deleteJob, deletionText } from "../jobDeletion";
import { useJobMetrics } from "../jobMetrics";
import { nameOf } from "../jobNotes";
import { isFinal, useJob } from "../liveData";
import { addRows, NO_ROWS, rowsOf } from "../metricTable";
import { baseOf, playgroundPath } from "../modelNames";
import { useLocation } from "../root";
import { useCan } from "../session";
import type { Job, JobEvent } from "../types";
import { AttemptsTab } from "./AttemptsTab";
import { CheckpointsTab, DownloadAdapter } from "./CheckpointsTab";
import { ConfigTab } from "./ConfigTab";
import { EventsTab } from "./EventsTab";
import { GroupsTab } from "./GroupsTab";
import { JobNotes } from "./JobNotes";
import { Progress } from "./Jobs";
import { LogTab } from "./LogTab";
import { VerdictBadge } from "./ModelVerdict";
import { OverviewTab } from "./OverviewTab";
import { RowsUsed } from "./RowUse";

const KEPT_EVENTS = 500;
const TABS = [
  ["", "Overview"],
  ["groups", "Groups"],
  ["events", "Events"],
  ["checkpoints", "Checkpoints"],
  ["config", "Config"],
  ["attempts", "Attempts"],
  ["log", "Log"],
] as const;

export function JobPage() {
  const { params } = useRoute();
  return <JobView key={params.id} id={params.id ?? ""} tab={params.tab ?? ""} />;
}

function JobView({ id, tab }: { id: string; tab: string }) {
  const [newEvents, setNewEvents] = useState<JobEvent[]>([]);
  const [streamed, setStreamed] = useState(NO_ROWS);
  const {
    job: current,
    error,
    isConnected,
  } = useJob(id, (events) => {
    setNewEvents((old) => [...[...events].reverse(), ...old].slice(0, KEPT_EVENTS));
    setStreamed((old) => addRows(old, events.flatMap(rowsOf)));
  });
  const [metadata, setMetadata] = useState<Job["metadata"]>();
  const job = current && metadata !== undefined ? { ...current, metadata } : current;
  // The history is requested once: for the first tab that draws it, and only after the stream is subscribed to.
  const hasCharts = useRef(false);
  hasCharts.current ||= job !== undefined && (tab === "" || tab === "groups");
  const { metrics, error: metricsError } = useJobMetrics(hasCharts.current ? id : null, streamed);
  useTitle(job ? nameOf(job) : "Job");
  if (error) return <ErrorNotice error={error} />;
  if (!job) return <Loading what="the job" />;
  return (
    <>
      <JobHeader job={job} isConnected={isConnected} changed={setMetadata} />
      <nav class="tabs" aria-label="About this job">
        {TABS.map(([name, title]) => (
          <a
            key={name}
            href={name ? `/ui/jobs/${id}/${name}` : `/ui/jobs/${id}`}
            aria-current={name === tab ? "page" : undefined}
          >
            {title}
          </a>
        ))}
      </nav>
      {tab === "" && <OverviewTab job={job} metrics={metrics} error={metricsError} />}
      {tab === "groups" && <GroupsTab job={job} metrics={metrics} />}
      {tab === "events" && <EventsTab job={job} newEvents={newEvents} />}
      {tab === "checkpoints" && <CheckpointsTab job={job} />}
      {tab === "config" && <ConfigTab job={job} />}
      {tab === "attempts" && <AttemptsTab job={job} />}
      {tab === "log" && <LogTab job={job} />}
    </>
  );
}

/** The job's gates with their results, and the alias for its model. */
function Gates({ job }: { job: Job }) {
  if (!job.gates.length && !job.alias) return null;
  return (
    <ul class="gates" aria-label="Gates">
      {job.gates.map((gate) => (
        <li key={gate.gate}>
          <GateStatus passed={gate.passed} /> <code>{gate.gate}</code> <span class="soft">{gate.reason}</span>
        </li>
      ))}
      {job.alias && (
        <li>
          <span class={`pill ${job.status === "succeeded" ? "good" : "mute"}`}>★ alias {job.alias}</span>{" "}
          <span class="soft">
            {job.status === "succeeded"
              ? "points to this model"
              : isFinal(job)
                ? "was not moved"
                : "will point to this model when the job succeeds"}
          </span>
        </li>
      )}
    </ul>
  );
}

function GateStatus({ passed }: { passed: boolean | null | undefined }) {
  if (passed === null || passed === undefined) return <span class="pill wait">◌ gate pending</span>;
  return <span class={`pill ${passed ? "good" : "bad"}`}>{passed ? "✓ gate passed" : "✕ gate failed"}</span>;
}

interface HeaderProps {
  job: Job;
  isConnected: boolean;
  changed: (metadata: Job["metadata"]) => void;
}

function JobHeader({ job, isConnected, changed }: HeaderProps) {
  const writes = useCan("jobs:write");
  const isLost = useIsLost(); // the page's header says so
  const [reads, asks] = [useCan("models:read"), useCan("inference")];
  const heldOut = job.validation_file ? { job: job.id } : undefined;
  const { route } = useLocation();
  const [confirming, setConfirming] = useState<"cancel" | "delete">();
  const [error, setError] = useState<ApiError>();
  const [requested, setRequested] = useState<string>();
  const act = (what: "cancel" | "pause" | "resume") => {
    setError(undefined);
    setRequested(what);
    post<Job>(`${JOBS}/${job.id}/${what}`).catch((problem: ApiError) => {
      setRequested(undefined);
      setError(problem);
    });
  };
  const isPending = requested !== undefined && !isFinal(job) && !(requested === "pause" && job.status === "paused");
  const expected = job.estimate?.seconds?.expected;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/">Jobs</a> / {job.id} <CopyButton text={job.id} label="Copy id" />
          </p>
          <h1>{nameOf(job)}</h1>
        </div>
        <div class="row">
          {asks && job.fine_tuned_model && (
            <a class="button primary" href={playgroundPath([baseOf(job), job.fine_tuned_model], heldOut)}>
              Open in playground
            </a>
          )}
          {job.fine_tuned_model && reads && <DownloadAdapter model={job.fine_tuned_model} isPlain={asks} />}
          {writes && (
            <>
              {["running", "queued"].includes(job.status) && (
                <button type="button" disabled={requested === "pause" && isPending} onClick={() => act("pause")}>
                  {requested === "pause" && isPending ? "Pausing …" : "Pause"}
                </button>
              )}
              {job.status === "paused" && (
                <button type="button" class="primary" onClick={() => act("resume")}>
                  Resume
                </button>
              )}
              <button type="button" onClick={() => route(`/ui/new?from=${job.id}`)}>
                Clone
              </button>
              {!isFinal(job) && (
                <button
                  type="button"
                  class="danger"
                  disabled={requested === "cancel"}
                  onClick={() => setConfirming("cancel")}
                >
                  {requested === "cancel" ? "Cancelling …" : "Cancel"}
                </button>
              )}
              {isFinal(job) && (
                <button type="button" class="danger" onClick={() => setConfirming("delete")}>
                  Delete
                </button>
              )}
            </>
          )}
        </div>
      </div>
      <div class="facts">
        <StatusBadge value={job.status} />
        <VerdictBadge job={job} />
        <Progress job={job} />
        <span>
          <b>{job.model}</b> · {String((job.method as { type: string }).type)}
        </span>
        <span>
          created <RelativeTime at={job.created_at} />
          {!isFinal(job) &&
            expected !== undefined &&
            job.progress.step === 0 &&
            ` · expected to take ${duration(expected)}`}
        </span>
        {!isConnected && !isFinal(job) && !isLost && (
          <span class="pill bad" role="status">
            ⚠ Connection lost. Reconnecting …
          </span>
        )}
      </div>
      {job.error && (
        <div class="notice bad" role="alert">
          <strong>{job.error.code}</strong> {job.error.message}
        </div>
      )}
      {error && <ErrorNotice error={error} />}
      <JobNotes job={job} changed={changed} />
      <RowsUsed of={job} isQuiet />
      <Gates job={job} />
      {confirming === "delete" && (
        <ConfirmDialog
          title="Delete this job?"
          text={deletionText([job])}
          action="Delete job"
          act={() => void deleteJob(job).then(() => route("/ui/"), setError)}
          close={() => setConfirming(undefined)}
        />
      )}
      {confirming === "cancel" && (
        <ConfirmDialog
          title="Cancel this job?"
          text="Its checkpoints remain. A cancelled job cannot be resumed; pause the job instead to continue it later."
          action="Cancel job"
          act={() => act("cancel")}
          close={() => setConfirming(undefined)}
        />
      )}
    </>
  );
}
