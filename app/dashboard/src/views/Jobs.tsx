// The project's jobs, kept current.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, JOBS, query } from "../api";
import { Sparkline } from "../components/Chart";
import { ErrorNotice, Loading, Meter, RelativeTime, StatusBadge, useTitle } from "../components/primitives";
import { Cell, ColumnHeader, VirtualTable } from "../components/VirtualTable";
import { duration, number, plural } from "../format";
import { nameOf, tagsOf } from "../jobNotes";
import { isFinal, useJobs } from "../liveData";
import { useLocation } from "../root";
import { useCan } from "../session";
import { useShortcuts } from "../shortcuts";
import type { Job, Series } from "../types";
import { VerdictBadge } from "./ModelVerdict";
import { SelectedJobs } from "./SelectedJobs";
import { Welcome } from "./Welcome";

const ROW = 60;
const NARROW_ROW = 108;
const TYPING_MS = 150;
const SECOND_MS = 1000;
const STATES = ["running", "queued", "paused", "validating_files", "succeeded", "failed", "cancelled"];
/** Value in the address to the label and to the parameters of the request. */
const SORTS: Record<string, { label: string; order_by?: string; order?: string }> = {
  "": { label: "Newest first" },
  oldest: { label: "Oldest first", order: "asc" },
  finished: { label: "Last finished first", order_by: "finished_at" },
  reward: { label: "Highest reward first", order_by: "reward" },
  name: { label: "By name", order_by: "name", order: "asc" },
  status: { label: "By status", order_by: "status", order: "asc" },
  model: { label: "By model", order_by: "model", order: "asc" },
};

export const methodOf = (job: Job): string => String((job.method as { type: string }).type);

export function Jobs() {
  const { query: params, route } = useLocation();
  const { q: search = "", status = "", method = "", sort = "" } = params as Record<string, string>;
  const { order_by = "", order = "" } = SORTS[sort] ?? {};
  const { jobs, error, isLoading, hasMore, more, reload } = useJobs({ search, status, method, order_by, order });
  // The field changes at once; the URL follows when the user stops typing.
  const [q, setQ] = useState(search);
  const typing = useRef<ReturnType<typeof setTimeout>>();
  const [row, setRow] = useState(-1);
  const [picked, setPicked] = useState<ReadonlySet<string>>(new Set());
  const find = useRef<HTMLInputElement>(null);
  const writes = useCan("jobs:write");
  useTitle("Jobs");
  useEffect(() => () => clearTimeout(typing.current), []);
  const filter = (changed: Record<string, string>) => {
    setRow(-1);
    route(query("/ui/", { q, status, method, sort, ...changed }), true);
  };
  const pick = (id: string) => {
    const next = new Set(picked);
    if (!next.delete(id)) next.add(id);
    setPicked(next);
  };
  const move = (by: number) => {
    const next = Math.min(jobs.length - 1, Math.max(0, row + by));
    setRow(next);
    document.querySelector(`[aria-rowindex="${next + 2}"]`)?.scrollIntoView({ block: "nearest" });
  };
  const current = jobs[row];
  useShortcuts({
    "/": () => find.current?.focus(),
    j: () => move(1),
    k: () => move(-1),
    x: () => current && pick(current.id),
    Enter: (event) => {
      if (event.target instanceof HTMLElement && event.target.closest("a, button")) event.target.click();
      else if (current) route(`/ui/jobs/${current.id}`);
    },
  });
  const chosen = jobs.filter((job) => picked.has(job.id));
  const areAllPicked = jobs.length > 0 && chosen.length === jobs.length;

  const isFiltered = Boolean(q || search || status || method);
  if (error && !jobs.length) return <ErrorNotice error={error} retry={more} />;
  if (!jobs.length && !isFiltered) return isLoading ? <Loading what="the jobs" /> : <Welcome />;
  return (
    <>
      <div class="title">
        <h1>Jobs</h1>
        {writes && (
          <a class="button primary" href="/ui/new">
            New job
          </a>
        )}
      </div>
      <div class="filters" role="search">
        <input
          ref={find}
          type="search"
          aria-label="Search jobs by name, model, tag or note"
          placeholder="Search by name, model, tag or note ( / )"
          value={q}
          maxLength={200}
          onInput={(event) => {
            const text = event.currentTarget.value;
            setQ(text);
            clearTimeout(typing.current);
            typing.current = setTimeout(() => filter({ q: text }), TYPING_MS);
          }}
          onKeyDown={(event) => event.key === "Escape" && find.current?.blur()}
        />
        <select aria-label="Status" value={status} onChange={(event) => filter({ status: event.currentTarget.value })}>
          <option value="">All states</option>
          {STATES.map((state) => (
            <option key={state} value={state}>
              {state.replace("_", " ")}
            </option>
          ))}
        </select>
        <select aria-label="Method" value={method} onChange={(event) => filter({ method: event.currentTarget.value })}>
          <option value="">All methods</option>
          {["gft", "reinforcement", "supervised", "dft", "dpo"].map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <select aria-label="Sort" value={sort} onChange={(event) => filter({ sort: event.currentTarget.value })}>
          {Object.entries(SORTS).map(([value, { label }]) => (
            <option key={value} value={value}>
              {label}
            </option>
          ))}
        </select>
        <span class="count" role="status">
          {plural(jobs.length, "job")}
          {hasMore ? " so far" : ""}
        </span>
      </div>
      <SelectedJobs jobs={chosen} clear={() => setPicked(new Set())} reload={reload} />
      <VirtualTable
        items={jobs}
        height={ROW}
        narrowHeight={NARROW_ROW}
        label="Jobs"
        nearEnd={() => hasMore && more()}
        rowClass={(job, index) => `job ${index === row ? "here" : ""} ${picked.has(job.id) ? "picked" : ""}`}
        columns={
          <>
            <ColumnHeader>
              <input
                type="checkbox"
                aria-label="Select all listed jobs"
                checked={areAllPicked}
                onChange={() => setPicked(new Set(areAllPicked ? [] : jobs.map((job) => job.id)))}
              />
            </ColumnHeader>
            <ColumnHeader>Job</ColumnHeader>
            <ColumnHeader>Status</ColumnHeader>
            <ColumnHeader>Reward or loss</ColumnHeader>
            <ColumnHeader>Progress</ColumnHeader>
            <ColumnHeader>Model</ColumnHeader>
            <ColumnHeader>Age</ColumnHeader>
          </>
        }
        render={(job) => <JobRow job={job} picked={picked.has(job.id)} pick={() => pick(job.id)} />}
      />
      {!jobs.length && !isLoading && (
        <p class="soft">
          No matching jobs.{" "}
          <button
            type="button"
            onClick={() => {
              setQ("");
              route("/ui/", true);
            }}
          >
            Show all jobs
          </button>
        </p>
      )}
    </>
  );
}

function JobRow({ job, picked, pick }: { job: Job; picked: boolean; pick: () => void }) {
  return (
    <>
      <Cell>
        <input type="checkbox" aria-label={`Select ${nameOf(job)}`} checked={picked} onChange={pick} />
      </Cell>
      <Cell name="name">
        <a href={`/ui/jobs/${job.id}`}>{nameOf(job)}</a>
        <small class="cut">{[methodOf(job), ...tagsOf(job)].join(" · ")}</small>
      </Cell>
      <Cell>
        <StatusBadge value={job.status} /> <VerdictBadge job={job} />
      </Cell>
      <Cell>
        <Trend job={job} />
      </Cell>
      <Cell>
        <Progress job={job} isShort />
      </Cell>
      <Cell name="cut">{job.model}</Cell>
      <Cell>
        <RelativeTime at={job.created_at} />
      </Cell>
    </>
  );
}

/** What a running job does before its first and after its last step. */
const PHASES: Record<string, string> = {
  grading_demonstrations: "grading the demonstrations",
  loading_model: "loading the model",
  evaluating_base_model: "evaluating the base model",
  saving_model: "saving the model",
};

/** A job's progress and time; with `isShort`, a failed job shows its error code instead. */
export function Progress({ job, isShort = false }: { job: Job; isShort?: boolean }) {
  const { step, total_steps, eta_seconds } = job.progress;
  const seconds = useCountdown(job.status === "running" ? eta_seconds : null);
  if (job.waiting_for && !isShort) return <span>{job.waiting_for}</span>;
  if (job.status === "queued" && job.queue_position) {
    return (
      <span>{job.queue_position === 1 ? "Next in the queue" : `Position ${job.queue_position} in the queue`}</span>
    );
  }
  if (job.error && isShort) return <code class="problem">{job.error.code}</code>;
  const grades = job.progress.phase === "grading_demonstrations" ? job.demonstrations : null;
  const graded = grades && `${grades.passed + grades.failed + grades.errors} of ${grades.total}`;
  const phase = PHASES[job.progress.phase ?? ""] ?? (job.status === "validating_files" ? "validating files" : "");
  const left = seconds === null ? "" : `${duration(seconds)} left`;
  const took = timeTaken(job);
  const notes = [phase, graded, left, took && `took ${took}`].filter(Boolean);
  if (!total_steps || (phase && step === 0)) {
    const text = notes.join(" · ") || (isFinal(job) ? "–" : "Not started");
    return <span class="soft">{text.charAt(0).toUpperCase() + text.slice(1)}</span>;
  }
  return (
    <span class="progress">
      <Meter share={step / total_steps} label={`Step ${step} of ${total_steps}`} />
      <small>{[`${step} / ${total_steps}`, ...notes].join(" · ")}</small>
    </span>
  );
}

/** Counts seconds down from the newest value that the server sent; null without one. */
function useCountdown(sent: number | null): number | null {
  const start = useRef({ sent, at: Date.now() });
  if (start.current.sent !== sent) start.current = { sent, at: Date.now() };
  const [, tick] = useState(0);
  useEffect(() => {
    if (sent === null) return;
    const timer = setInterval(() => tick((old) => old + 1), SECOND_MS);
    return () => clearInterval(timer);
  }, [sent === null]);
  return sent === null ? null : Math.max(0, sent - (Date.now() - start.current.at) / SECOND_MS);
}

/** How long workers ran a job that has ended, without the queue; undefined if none did. */
export function timeTaken(job: Job): string | undefined {
  const seconds = job.progress.run_seconds;
  return isFinal(job) && typeof seconds === "number" ? duration(seconds) : undefined;
}

/** Values by job, so that a list that scrolls back shows them at once. */
const loadedValues = new Map<string, number[]>();

const TRENDS: Record<string, string> = { gft: "reward", reinforcement: "reward", dpo: "rewards/margins" };

const TITLES: Record<string, string> = { "rewards/margins": "reward margin" };

/** Sparkline of the reward or the reward margin, or of the loss for imitation methods, over the whole run. */
function Trend({ job }: { job: Job }) {
  const name = TRENDS[methodOf(job)] ?? "loss";
  const title = TITLES[name] ?? name;
  const { step } = job.progress;
  // The values of a running job are requested at every tenth of its steps, not at every step.
  const stage = isFinal(job) ? step : Math.floor(step / Math.max(1, Math.ceil((job.progress.total_steps ?? 1) / 10)));
  const [values, setValues] = useState<number[]>(loadedValues.get(job.id) ?? []);
  useEffect(() => {
    if (step < 2) return;
    let current = true;
    get<Series>(query(`${JOBS}/${job.id}/metrics`, { names: name, points: 40 })).then(
      (table) => {
        const kept = (table.series[name] ?? []).filter((value): value is number => value !== null);
        loadedValues.set(job.id, kept);
        if (current) setValues(kept);
      },
      () => undefined, // the row works without a sparkline
    );
    return () => {
      current = false;
    };
  }, [job.id, stage]);
  const [first, last] = [values[0], values.at(-1)];
  if (first === undefined || last === undefined) return <span class="soft">–</span>;
  return (
    <span class="trend">
      <Sparkline values={values} label={`${title} from ${number(first)} to ${number(last)}`} />
      <span class="stack">
        <b>{number(last)}</b>
        <small>{title}</small>
      </span>
    </span>
  );
}
