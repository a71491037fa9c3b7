// One eval: its criteria and its runs, two of which can be compared.
import { useEffect, useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { type ApiError, post, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog } from "../components/Dialogs";
import { CodeBlock, ErrorNotice, Loading, Meter, RelativeTime, StatusBadge, useTitle } from "../components/primitives";
import { EVALS, isUnfinished, passRate, share } from "../evalResults";
import { plural } from "../format";
import { useGet } from "../liveData";
import { useLocation } from "../root";
import { useCan } from "../session";
import type { EvalObject, EvalRun, Page } from "../types";

const POLL_MS = 1000;

/** An interval that repeats `reload` while a run is unfinished. */
export function usePolling(isActive: boolean, reload: () => void): void {
  useEffect(() => {
    if (!isActive) return;
    const timer = setInterval(reload, POLL_MS);
    return () => clearInterval(timer);
  }, [isActive]);
}

export function EvalPage() {
  const { params } = useRoute();
  return <EvalView key={params.id} id={params.id ?? ""} />;
}

function EvalView({ id }: { id: string }) {
  const path = `${EVALS}/${id}`;
  const found = useGet<EvalObject>(path);
  const runs = useGet<Page<EvalRun>>(`${path}/runs?order=desc&limit=100`);
  const [chosen, setChosen] = useState<string[]>([]);
  const [toDelete, setToDelete] = useState<EvalRun | EvalObject>();
  const [failed, setFailed] = useState<ApiError>();
  const { route } = useLocation();
  const writes = useCan("jobs:write");
  const list = runs.value?.data ?? [];
  usePolling(list.some(isUnfinished), runs.reload);
  useTitle(found.value?.name ?? "Eval");
  if (found.error) return <ErrorNotice error={found.error} retry={found.reload} />;
  if (!found.value) return <Loading what="the eval" />;
  const toggle = (run: string) =>
    setChosen((old) => (old.includes(run) ? old.filter((one) => one !== run) : [...old, run].slice(-2)));
  // The older run is the baseline; the list begins with the newest one.
  const [run, baseline] = list.filter((one) => chosen.includes(one.id)).map((one) => one.id);
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/evals">Evals</a> / {id}
          </p>
          <h1>{found.value.name}</h1>
        </div>
        {writes && (
          <button type="button" onClick={() => setToDelete(found.value)}>
            Delete eval
          </button>
        )}
      </div>
      {failed && <ErrorNotice error={failed} />}
      <h2>Criteria</h2>
      <DataTable label="Criteria" columns={["Name", "Type", "Settings"]}>
        {found.value.testing_criteria.map(({ name, type, ...settings }) => (
          <tr key={String(name)}>
            <td>{String(name)}</td>
            <td>{String(type)}</td>
            <td>
              <code class="wrap">{JSON.stringify(settings)}</code>
            </td>
          </tr>
        ))}
      </DataTable>
      <div class="row between">
        <h2>Runs</h2>
        <div class="row">
          <button
            type="button"
            disabled={!baseline}
            title="Choose two completed runs"
            onClick={() => route(`/ui/evals/${id}/compare?run=${run}&baseline=${baseline}`)}
          >
            Compare two runs
          </button>
          {writes && (
            <a class="button" href={`/ui/evals/${id}/run`}>
              New run
            </a>
          )}
        </div>
      </div>
      {runs.error && <ErrorNotice error={runs.error} retry={runs.reload} />}
      {runs.value && !list.length && (
        <>
          <p class="soft">No runs yet. A run grades the answers of one model to the rows of a file.</p>
          <CodeBlock title="Command line" text={`grouptune evals run ${id} held_out.jsonl --model MODEL`} />
        </>
      )}
      {list.length > 0 && (
        <DataTable
          label="Runs"
          columns={["Run", "Status", "Age"]}
          figures={["Pass rate", "Passed", "Failed", "Errored"]}
          actions="Actions"
        >
          {list.map((one) => (
            <RunRow
              key={one.id}
              run={one}
              isChosen={chosen.includes(one.id)}
              choose={() => toggle(one.id)}
              writes={writes}
              cancel={() => void post(`${path}/runs/${one.id}/cancel`).then(runs.reload, setFailed)}
              remove={() => setToDelete(one)}
            />
          ))}
        </DataTable>
      )}
      {toDelete && (
        <ConfirmDialog
          title={toDelete.object === "eval" ? "Delete this eval?" : "Delete this run?"}
          text={toDelete.object === "eval" ? "Its runs are deleted too." : "Its rows are deleted too."}
          action="Delete"
          act={() =>
            toDelete.object === "eval"
              ? void remove(path).then(() => route("/ui/evals"), setFailed)
              : void remove(`${path}/runs/${toDelete.id}`).then(runs.reload, setFailed)
          }
          close={() => setToDelete(undefined)}
        />
      )}
    </>
  );
}

interface RunRowProps {
  run: EvalRun;
  isChosen: boolean;
  choose: () => void;
  writes: boolean;
  cancel: () => void;
  remove: () => void;
}

function RunRow({ run, isChosen, choose, writes, cancel, remove }: RunRowProps) {
  const counts = run.result_counts;
  return (
    <tr>
      <td>
        <label class="row">
          <input
            type="checkbox"
            aria-label={`Choose ${run.name}`}
            checked={isChosen}
            disabled={run.status !== "completed"}
            onChange={choose}
          />
          <a href={`/ui/evals/${run.eval_id}/runs/${run.id}`}>{run.name}</a>
        </label>
        <small class="soft">{run.model || "stored answers"}</small>
      </td>
      <td>
        <RunStatus run={run} />
      </td>
      <td class="nowrap">
        <RelativeTime at={run.created_at} />
      </td>
      <td class="figure">{share(passRate(run))}</td>
      <td class="figure">{counts.passed}</td>
      <td class="figure">{counts.failed}</td>
      <td class="figure">{counts.errored}</td>
      <td class="nowrap">
        {writes &&
          (isUnfinished(run) ? (
            <button type="button" class="small" aria-label={`Cancel ${run.name}`} onClick={cancel}>
              Cancel
            </button>
          ) : (
            <button type="button" class="small" aria-label={`Delete ${run.name}`} onClick={remove}>
              Delete
            </button>
          ))}
      </td>
    </tr>
  );
}

/** The state of a run, with its progress while it is unfinished. */
export function RunStatus({ run }: { run: EvalRun }) {
  if (run.status !== "in_progress") return <StatusBadge value={run.status} />;
  const done = run.result_counts.total;
  return (
    <div class="progress">
      <span>
        {done} of {plural(run.rows, "row")}
      </span>
      <Meter share={done / run.rows} label={`${done} of ${plural(run.rows, "row")}`} />
    </div>
  );
}
