// The log of the trainer of one attempt, followed while the attempt runs.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { EmptyState, ErrorNotice, Loading } from "../components/primitives";
import { isFinal } from "../liveData";
import type { Job, JobLog } from "../types";

const POLL_MS = 1500;
const MAX_SHOWN = 2_000_000;
/** Distance from the end, in pixels, at which the view still follows new lines. */
const NEAR_END = 24;

interface Log {
  text: string;
  isComplete: boolean;
}

export function LogTab({ job }: { job: Job }) {
  const [chosen, setChosen] = useState<number>();
  const attempt = chosen ?? job.attempt;
  const { log, error } = useLog(job.id, attempt);
  if (!job.attempt) {
    return (
      <EmptyState title="No log yet">
        <p>
          {isFinal(job) ? "The job ended before a worker started it." : "The log begins when a worker starts the job."}
        </p>
      </EmptyState>
    );
  }
  const attempts = Array.from({ length: job.attempt }, (_, index) => job.attempt - index);
  return (
    <>
      <div class="row">
        <label class="row">
          Attempt{" "}
          <select value={attempt} onChange={(event) => setChosen(Number(event.currentTarget.value))}>
            {attempts.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
        <a class="button" href={query(`${JOBS}/${job.id}/logs`, { attempt, format: "text" })} download>
          Download
        </a>
        <span class="soft" role="status">
          {log && (log.isComplete ? "The attempt has ended." : "Following …")}
        </span>
      </div>
      {error && <ErrorNotice error={error} />}
      {!log && !error && <Loading what="the log" />}
      {log && <LogText log={log} />}
    </>
  );
}

/** The text, scrolled to its end until the reader scrolls up. */
function LogText({ log }: { log: Log }) {
  const box = useRef<HTMLPreElement>(null);
  const isFollowing = useRef(true);
  useLayoutEffect(() => {
    if (box.current && isFollowing.current) box.current.scrollTop = box.current.scrollHeight;
  }, [log.text]);
  if (!log.text) return <p class="soft">{log.isComplete ? "The trainer wrote nothing." : "Nothing written yet."}</p>;
  return (
    <pre
      ref={box}
      class="panel log"
      role="log"
      aria-label="Log of the trainer"
      tabIndex={0}
      onScroll={({ currentTarget: at }) => {
        isFollowing.current = at.scrollHeight - at.scrollTop - at.clientHeight < NEAR_END;
      }}
    >
      {log.text}
    </pre>
  );
}

/** The log of an attempt: what is stored, then new text as it arrives. Attempt 0 requests nothing. */
function useLog(id: string, attempt: number): { log: Log | undefined; error: ApiError | undefined } {
  const [log, setLog] = useState<Log>();
  const [error, setError] = useState<ApiError>();
  useEffect(() => {
    setLog(undefined);
    setError(undefined);
    if (!attempt) return;
    let after = 0;
    let isGone = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = () =>
      get<JobLog>(query(`${JOBS}/${id}/logs`, { attempt, after })).then(
        (page) => {
          if (isGone) return;
          after = page.next;
          const gap = page.omitted ? `\n[... ${page.omitted.toLocaleString("en-US")} characters left out ...]\n` : "";
          setError(undefined);
          setLog((old) => ({
            text: ((old?.text ?? "") + gap + page.text).slice(-MAX_SHOWN),
            isComplete: page.complete,
          }));
          if (!page.complete) timer = setTimeout(load, page.has_more ? 0 : POLL_MS);
        },
        (problem: ApiError) => {
          if (isGone) return;
          setError(problem);
          timer = setTimeout(load, POLL_MS);
        },
      );
    void load();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, [id, attempt]);
  return { log, error };
}
