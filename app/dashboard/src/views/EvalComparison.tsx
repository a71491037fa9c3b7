// Two runs of an eval, compared row by row.
import { useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { DataTable } from "../components/DataTable";
import { ErrorNotice, Loading, useTitle } from "../components/primitives";
import { difference, EVALS, share, verdict } from "../evalResults";
import { number, plural } from "../format";
import { useGet } from "../liveData";
import type { EvalItem, EvalRun, RunComparison, RunMeans } from "../types";
import { ItemCard } from "./EvalRunPage";

const SHOWN = 10;

export function EvalComparison() {
  const { params, query } = useRoute();
  const runs = `${EVALS}/${params.id}/runs`;
  const found = useGet<RunComparison>(`${runs}/${query.run}/comparison/${query.baseline}`);
  const run = useGet<EvalRun>(`${runs}/${query.run}`);
  const baseline = useGet<EvalRun>(`${runs}/${query.baseline}`);
  const [shown, setShown] = useState(SHOWN);
  useTitle("Compare runs");
  if (found.error) return <ErrorNotice error={found.error} retry={found.reload} />;
  if (!found.value || !run.value || !baseline.value) return <Loading what="the comparison" />;
  const { tone, text } = verdict(found.value);
  const means = [...(found.value.pass_rate ? [found.value.pass_rate] : []), ...found.value.criteria];
  const { gained, lost, changed, errored_rows: errored } = found.value;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/evals">Evals</a> / <a href={`/ui/evals/${params.id}`}>{params.id}</a> / comparison
          </p>
          <h1>
            {run.value.name} against {baseline.value.name}
          </h1>
        </div>
      </div>
      <p class={`notice ${tone}`}>
        {text} {plural(gained, "row")} gained, {lost} lost{errored > 0 && `, ${errored} with errors left out`}.
      </p>
      <DataTable
        label="Comparison"
        columns={["Measure"]}
        figures={["Baseline", "Run", "Difference (95 % interval)", "Rows"]}
      >
        {means.map((each, index) => (
          <MeansRow key={each.name} means={each} isShare={index === 0 && found.value?.pass_rate !== null} />
        ))}
      </DataTable>
      <h2>Changed rows</h2>
      {changed.length ? (
        changed
          .slice(0, shown)
          .map((row) => (
            <ChangedRow
              key={row.datasource_item_id}
              before={`${runs}/${query.baseline}/output_items/${row.baseline_item_id}`}
              after={`${runs}/${query.run}/output_items/${row.run_item_id}`}
            />
          ))
      ) : (
        <p class="soft">Both runs passed the same rows.</p>
      )}
      {changed.length > shown && (
        <button type="button" onClick={() => setShown(shown + SHOWN)}>
          More rows
        </button>
      )}
    </>
  );
}

function MeansRow({ means, isShare }: { means: RunMeans; isShare: boolean }) {
  const shown = isShare ? share : number;
  return (
    <tr>
      <td>{isShare ? "Pass rate, in points" : `Mean score of ${means.name}`}</td>
      <td class="figure">{shown(means.baseline)}</td>
      <td class="figure">{shown(means.run)}</td>
      <td class="figure">{difference(means, isShare)}</td>
      <td class="figure">{means.rows}</td>
    </tr>
  );
}

function ChangedRow({ before, after }: { before: string; after: string }) {
  const [old, now] = [useGet<EvalItem>(before), useGet<EvalItem>(after)];
  const error = old.error ?? now.error;
  if (error) return <ErrorNotice error={error} />;
  if (!old.value || !now.value) return <Loading what="a row" />;
  const row = `Row ${now.value.datasource_item_id}`;
  return (
    <div class="cards">
      <ItemCard item={old.value} title={`${row}, baseline`} />
      <ItemCard item={now.value} title={`${row}, run`} />
    </div>
  );
}
