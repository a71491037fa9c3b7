// One run of an eval: its results by criterion, and its rows.
import { useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { query } from "../api";
import { DataTable } from "../components/DataTable";
import { EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { asText } from "../dataFile";
import { EVALS, isUnfinished, passRate, share } from "../evalResults";
import { number, plural } from "../format";
import { useGet } from "../liveData";
import type { EvalItem, EvalRun, Page } from "../types";
import { RunStatus, usePolling } from "./EvalPage";

const LIMIT = 50;
const FILTERS = { all: "", passed: "pass", failed: "fail", errored: "error" } as const;
const RESULTS = {
  pass: { tone: "good", icon: "✓", text: "Passed" },
  fail: { tone: "bad", icon: "✕", text: "Failed" },
  error: { tone: "hold", icon: "⚠", text: "Errored" },
} as const;

export function EvalRunPage() {
  const { params } = useRoute();
  return <RunView key={params.run} evalId={params.id ?? ""} id={params.run ?? ""} />;
}

function RunView({ evalId, id }: { evalId: string; id: string }) {
  const path = `${EVALS}/${evalId}/runs/${id}`;
  const { value: run, error, reload } = useGet<EvalRun>(path);
  usePolling(run !== undefined && isUnfinished(run), reload);
  useTitle(run?.name ?? "Run");
  if (error && !run) return <ErrorNotice error={error} retry={reload} />;
  if (!run) return <Loading what="the run" />;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/evals">Evals</a> / <a href={`/ui/evals/${evalId}`}>{evalId}</a> / {id}
          </p>
          <h1>{run.name}</h1>
        </div>
        <RunStatus run={run} />
      </div>
      {run.error && (
        <p class="notice bad" role="alert">
          {run.error.message}
        </p>
      )}
      <RunFacts run={run} />
      <h2>Results by criterion</h2>
      <DataTable
        label="Results by criterion"
        columns={["Criterion"]}
        figures={["Pass rate", "Passed", "Failed", "Errored"]}
      >
        {run.per_testing_criteria_results.map((each) => (
          <tr key={each.testing_criteria}>
            <td>{each.testing_criteria}</td>
            <td class="figure">
              {share(each.passed + each.failed ? each.passed / (each.passed + each.failed) : undefined)}
            </td>
            <td class="figure">{each.passed}</td>
            <td class="figure">{each.failed}</td>
            <td class="figure">{each.errored}</td>
          </tr>
        ))}
      </DataTable>
      <Items path={path} run={run} />
    </>
  );
}

function RunFacts({ run }: { run: EvalRun }) {
  const counts = run.result_counts;
  const tokens = run.per_model_usage.map(
    (used) => `${used.model_name}: ${plural(used.prompt_tokens + used.completion_tokens, "token")}`,
  );
  return (
    <dl class="keys facts-list">
      <dt>model</dt>
      <dd>{run.model || "none: the rows have stored answers"}</dd>
      <dt>rows</dt>
      <dd>
        {counts.total} of {run.rows} finished: {counts.passed} passed, {counts.failed} failed, {counts.errored} errored
      </dd>
      <dt>pass rate</dt>
      <dd>{share(passRate(run))} of the graded rows</dd>
      {tokens.length > 0 && (
        <>
          <dt>usage</dt>
          <dd>{tokens.join("; ")}</dd>
        </>
      )}
    </dl>
  );
}

function Items({ path, run }: { path: string; run: EvalRun }) {
  const [filter, setFilter] = useState<keyof typeof FILTERS>("all");
  const [after, setAfter] = useState<string[]>([]);
  const url = query(`${path}/output_items`, { limit: LIMIT, status: FILTERS[filter], after: after.at(-1) });
  const { value, error, reload } = useGet<Page<EvalItem>>(url, run.result_counts.total);
  const choose = (name: keyof typeof FILTERS) => {
    setFilter(name);
    setAfter([]);
  };
  return (
    <section aria-label="Rows">
      <div class="row between">
        <h2>Rows</h2>
        <fieldset class="row">
          <legend class="hidden">Show rows</legend>
          {(Object.keys(FILTERS) as (keyof typeof FILTERS)[]).map((name) => (
            <button key={name} type="button" class="small" aria-pressed={name === filter} onClick={() => choose(name)}>
              {name[0]?.toUpperCase()}
              {name.slice(1)}
            </button>
          ))}
        </fieldset>
      </div>
      {error && <ErrorNotice error={error} retry={reload} />}
      {!value && !error && <Loading what="the rows" />}
      {value && !value.data.length && (
        <EmptyState title="No rows">
          <p>{filter === "all" ? "No row is finished yet." : "No finished row has this result."}</p>
        </EmptyState>
      )}
      {value?.data.map((item) => (
        <ItemCard key={item.id} item={item} />
      ))}
      <div class="row">
        {after.length > 0 && (
          <button type="button" onClick={() => setAfter((old) => old.slice(0, -1))}>
            Previous rows
          </button>
        )}
        {value?.has_more && (
          <button type="button" onClick={() => setAfter((old) => [...old, value.last_id ?? ""])}>
            Next rows
          </button>
        )}
      </div>
    </section>
  );
}

/** A row: its item, what the model read, its answer, and each criterion's result. */
export function ItemCard({ item, title }: { item: EvalItem; title?: string }) {
  const state = RESULTS[item.status];
  const answer = item.sample.output[0];
  return (
    <article class="group" aria-label={title ?? `Row ${item.datasource_item_id}`}>
      <header>
        <h3>{title ?? `Row ${item.datasource_item_id}`}</h3>
        <span class={`pill ${state.tone}`}>
          <span aria-hidden="true">{state.icon}</span> {state.text}
        </span>
        {item.results.map((result) => (
          <span key={result.name} class="nowrap">
            {result.name} <b>{result.score === null ? "error" : number(result.score)}</b>
          </span>
        ))}
      </header>
      <div class="talk">
        {item.sample.input.map((message, index) => (
          <div key={index} class="turn">
            <span class="chip">{String(message.role)}</span>
            <span>{asText(message.content)}</span>
          </div>
        ))}
        {answer && (
          <div class="turn trained">
            <span class="chip self">answer</span>
            <span>{asText(answer.content) || <i class="soft">empty</i>}</span>
          </div>
        )}
        <div class="turn">
          <span class="chip">item</span>
          <span>
            {Object.entries(item.datasource_item).map(([key, value]) => (
              <span key={key}>
                <code>{key}</code> {asText(value)}{" "}
              </span>
            ))}
          </span>
        </div>
      </div>
      {[item.sample.error?.message, ...item.results.map((result) => result.error)].filter(Boolean).map((problem) => (
        <p key={problem} class="notice hold">
          {problem}
        </p>
      ))}
    </article>
  );
}
