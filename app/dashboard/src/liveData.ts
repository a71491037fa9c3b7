// Data that stays current: requests that repeat on changes, and the server's event streams.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "./api";
import { checkConnection, useReconnection } from "./connection";
import { ROOT } from "./root";
import type { FileObject, Job, JobEvent, Page } from "./types";

export interface Loaded<T> {
  value: T | undefined;
  error: ApiError | undefined;
  reload: () => void;
}

/**
 * The response to a GET, which is repeated whenever `path` or `version` changes, and when a lost server responds again;
 * null requests nothing. The old response stays until the new one arrives. While a request is in flight, any number of changes cause one more request.
 */
export function useGet<T>(path: string | null, version: number | string = 0): Loaded<T> {
  const [state, setState] = useState<{ value?: T; error?: ApiError }>({});
  const [round, setRound] = useState(0);
  const flight = useRef({ path, isBusy: false, again: false });
  useEffect(() => {
    if (path === null) return;
    if (flight.current.path !== path) flight.current = { path, isBusy: false, again: false };
    const request = flight.current;
    const load = () => {
      request.again = request.isBusy;
      if (request.isBusy) return;
      request.isBusy = true;
      get<T>(path)
        .then(
          (value) => flight.current === request && setState({ value }),
          (error: ApiError) => flight.current === request && setState((old) => ({ ...old, error })),
        )
        .finally(() => {
          request.isBusy = false;
          if (request.again && flight.current === request) load();
        });
    };
    load();
  }, [path, version, round]);
  useEffect(() => {
    return () => {
      flight.current = { path: null, isBusy: false, again: false };
    };
  }, []);
  const reload = () => setRound((old) => old + 1);
  useReconnection(reload);
  return { value: state.value, error: state.error, reload };
}

const MAX_FOLLOWED = 4;

/** Calls `done` when one of these files is validated. Follows the first few only: browsers limit connections to a server. */
export function useFileValidation(ids: string[], done: () => void): void {
  const handler = useRef(done);
  handler.current = done;
  useEffect(() => {
    const sources = ids.slice(0, MAX_FOLLOWED).map((id) => {
      const source = new EventSource(`${ROOT}/v1/files/${id}/stream`);
      source.addEventListener("end", () => {
        source.close();
        handler.current();
      });
      return source;
    });
    return () => {
      for (const source of sources) source.close();
    };
  }, [ids.join()]);
}

/** A file, kept current until it is validated. */
export function useFile(id: string): Loaded<FileObject> {
  const file = useGet<FileObject>(`/v1/files/${id}`);
  useFileValidation(file.value?.status === "uploaded" ? [id] : [], file.reload);
  return file;
}

const FINAL = new Set(["succeeded", "failed", "cancelled"]);
export const isFinal = (job: { status: string }): boolean => FINAL.has(job.status);

/** A stream that the server refused, as while a proxy finds no server, is opened again after this time. */
const REOPEN_MS = 3000;
/** Messages that arrive together are handled together. Timers, unlike frames, also run in hidden tabs. */
const BATCH_MS = 16;

/** Collects items for a moment, then hands them over in their order. */
function batched<T>(handle: (items: T[]) => void): { add: (item: T) => void; cancel: () => void } {
  let items: T[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = () => {
    timer = undefined;
    const batch = items;
    items = [];
    handle(batch);
  };
  return {
    add: (item) => {
      items.push(item);
      timer ??= setTimeout(flush, BATCH_MS);
    },
    cancel: () => clearTimeout(timer),
  };
}

interface JobStreamHandlers {
  onEvents?: (events: JobEvent[]) => void;
  onState?: (job: Job) => void;
  onConnection?: (isConnected: boolean) => void;
  onEnd?: () => void;
}

/** The id of a job's newest event, to follow the job from; undefined before its first one. */
export async function lastEventId(id: string): Promise<string | undefined> {
  return (await get<Page<JobEvent>>(`${JOBS}/${id}/events?limit=1`)).data[0]?.id;
}

/**
 * Subscribes to a job's stream after the event `after`; returns a function that ends the subscription. No event is lost or
 * repeated: whether the browser reconnects (with `Last-Event-ID`) or the stream is opened again here, the server continues
 * after the last event received.
 */
export function followJob(id: string, after: string | undefined, handlers: JobStreamHandlers): () => void {
  const events = batched<JobEvent>((batch) => handlers.onEvents?.(batch));
  let last = after;
  let source: EventSource;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const open = () => {
    source = new EventSource(query(`${ROOT}${JOBS}/${id}/stream`, { after: last }));
    source.addEventListener("state", (message) => handlers.onState?.(JSON.parse(message.data) as Job));
    const receive = (message: MessageEvent) => {
      last = message.lastEventId || last;
      events.add(JSON.parse(message.data) as JobEvent);
    };
    source.addEventListener("message", receive);
    source.addEventListener("metrics", receive);
    source.addEventListener("end", () => {
      source.close();
      handlers.onEnd?.();
    });
    source.onopen = () => handlers.onConnection?.(true);
    source.onerror = () => {
      handlers.onConnection?.(false);
      checkConnection();
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, REOPEN_MS);
    };
  };
  open();
  return () => {
    source.close();
    clearTimeout(timer);
    events.cancel();
  };
}

export interface LiveJob {
  job: Job | undefined;
  error: ApiError | undefined;
  isConnected: boolean;
}

/** A job that stays current; `onEvents` receives its events from now on, in order. */
export function useJob(id: string, onEvents: (events: JobEvent[]) => void): LiveJob {
  const [state, setState] = useState<LiveJob>({ job: undefined, error: undefined, isConnected: false });
  const handler = useRef(onEvents);
  handler.current = onEvents;
  const [round, setRound] = useState(0);
  useReconnection(() => state.job === undefined && setRound(round + 1));
  useEffect(() => {
    let stop: (() => void) | undefined;
    let hasLeft = false;
    const show = (job: Job) => !hasLeft && setState({ job, error: undefined, isConnected: true });
    Promise.all([get<Job>(`${JOBS}/${id}`), lastEventId(id)]).then(
      ([job, after]) => {
        if (hasLeft) return;
        show(job);
        if (isFinal(job)) return;
        stop = followJob(id, after, {
          onState: show,
          onEvents: (events) => handler.current(events),
          onConnection: (isConnected) => setState((old) => ({ ...old, isConnected })),
          // The states in the stream lack sample answers, so the final one is requested.
          onEnd: () => void get<Job>(`${JOBS}/${id}`).then(show),
        });
      },
      (error: ApiError) => !hasLeft && setState({ job: undefined, error, isConnected: false }),
    );
    return () => {
      hasLeft = true;
      stop?.();
    };
  }, [id, round]);
  return state;
}

/** Passes on the project's jobs as they change, in batches; one stream serves any number of jobs. */
export function useProjectStream(onJobs: (jobs: Job[]) => void): void {
  const handler = useRef(onJobs);
  handler.current = onJobs;
  useEffect(() => {
    let source: EventSource;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const jobs = batched<Job>((batch) => handler.current(batch));
    const open = () => {
      source = new EventSource(`${ROOT}/v1/fine_tuning/stream`);
      source.addEventListener("state", (message) => jobs.add(JSON.parse(message.data) as Job));
      source.onerror = () => {
        checkConnection();
        if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, REOPEN_MS);
      };
    };
    open();
    return () => {
      source.close();
      clearTimeout(timer);
      jobs.cancel();
    };
  }, []);
}

/** Filter and order of a list of jobs; empty strings match all jobs, and list the newest first. */
export interface JobFilter {
  search: string;
  status: string;
  method: string;
  order_by: string;
  order: string;
}

/** The loaded pages of the project's jobs that match a filter; kept current by one stream. */
export function useJobs(filter: JobFilter): {
  jobs: Job[];
  isLoading: boolean;
  hasMore: boolean;
  error: ApiError | undefined;
  more: () => void;
  /** Starts again with the first page. */
  reload: () => void;
} {
  const isNewestFirst = !filter.order_by && !filter.order;
  const [loaded, setLoaded] = useState<Map<string, Job>>(new Map());
  const [state, setState] = useState<{ isLoading: boolean; hasMore: boolean; error?: ApiError }>({
    isLoading: true,
    hasMore: false,
  });
  // Responses to an older filter are dropped.
  const request = useRef<{ after: string | null; busy: boolean }>({ after: null, busy: false });
  const merge = (jobs: Job[]) => setLoaded((old) => new Map([...old, ...jobs.map((job) => [job.id, job] as const)]));

  const more = () => {
    const current = request.current;
    if (current.busy) return;
    current.busy = true;
    setState((old) => ({ ...old, isLoading: true }));
    get<Page<Job>>(query(JOBS, { ...filter, limit: 100, after: current.after })).then(
      (page) => {
        if (request.current !== current) return;
        if (current.after === null) setLoaded(new Map());
        merge(page.data);
        current.busy = false;
        current.after = page.last_id ?? current.after;
        setState({ isLoading: false, hasMore: page.has_more });
      },
      (error: ApiError) => {
        if (request.current !== current) return;
        current.busy = false;
        setState({ isLoading: false, hasMore: false, error });
      },
    );
  };

  const reload = () => {
    request.current = { after: null, busy: false };
    more();
  };
  useEffect(reload, [filter.search, filter.status, filter.method, filter.order_by, filter.order]);
  useReconnection(() => state.error && reload());
  // A new job has a place in the list, its first one, only if that begins with the newest job.
  useProjectStream((changed) =>
    setLoaded((old) => {
      const isNew = (job: Job) => isNewestFirst && !old.has(job.id) && matchesFilter(job, filter);
      const fresh = changed.filter(isNew).reverse();
      const known = changed.filter((job) => old.has(job.id));
      return new Map([...fresh, ...old.values(), ...known].map((job) => [job.id, job]));
    }),
  );

  const jobs = useMemo(() => {
    const fitting = [...loaded.values()].filter((job) => !filter.status || job.status === filter.status);
    if (!isNewestFirst) return fitting; // in the order in which the server listed them
    // Jobs of the same second stay in the server's order, which knows fractions of it.
    return fitting.sort((a, b) => b.created_at - a.created_at);
  }, [loaded, filter.status, isNewestFirst]);
  return { jobs, error: state.error, isLoading: state.isLoading, hasMore: state.hasMore, more, reload };
}

/** Whether a job from the stream matches the filter, by the server's rules. */
function matchesFilter(job: Job, { search, status, method }: JobFilter): boolean {
  const names = [job.id, job.model, job.user_provided_suffix, job.fine_tuned_model, JSON.stringify(job.metadata ?? {})];
  return (
    (!status || job.status === status) &&
    (!method || (job.method as { type: string }).type === method) &&
    names.some((name) => name?.toLowerCase().includes(search.toLowerCase()))
  );
}
