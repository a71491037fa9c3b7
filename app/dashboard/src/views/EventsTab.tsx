// The events of a job, newest first: loaded pages and events from the stream.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { ErrorNotice, Loading, RelativeTime } from "../components/primitives";
import type { Job, JobEvent, Page } from "../types";

const ICONS: Record<string, string> = { info: "", warn: "⚠ ", error: "✕ " };

export function EventsTab({ job, newEvents }: { job: Job; newEvents: JobEvent[] }) {
  const [old, setOld] = useState<{ events: JobEvent[]; after: string | null }>();
  const [error, setError] = useState<ApiError>();
  const [withSteps, setWithSteps] = useState(false);
  const load = (after: string | null) =>
    get<Page<JobEvent>>(query(`${JOBS}/${job.id}/events`, { limit: 100, after })).then(
      (page) =>
        setOld((loaded) => ({
          events: [...(after ? (loaded?.events ?? []) : []), ...page.data],
          after: page.has_more ? page.last_id : null,
        })),
      setError,
    );
  useEffect(() => void load(null), [job.id]);
  if (error && !old) return <ErrorNotice error={error} />;
  if (!old) return <Loading what="the events" />;
  const loadedIds = new Set(old.events.map((event) => event.id));
  const events = [...newEvents.filter((event) => !loadedIds.has(event.id)), ...old.events];
  const shown = events.filter((event) => withSteps || event.type !== "metrics");
  return (
    <>
      <label class="row">
        <input type="checkbox" checked={withSteps} onChange={(event) => setWithSteps(event.currentTarget.checked)} />{" "}
        Show every step
      </label>
      <ol class="events">
        {shown.map((event) => (
          <li key={event.id} class={event.level}>
            <RelativeTime at={event.created_at} />
            <span>
              {ICONS[event.level]}
              {event.message}
            </span>
          </li>
        ))}
      </ol>
      {old.after && (
        <button type="button" onClick={() => void load(old.after)}>
          Show older events
        </button>
      )}
    </>
  );
}
