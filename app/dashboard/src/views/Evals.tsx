// The list of evals.
import { DataTable } from "../components/DataTable";
import { CodeBlock, EmptyState, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { EVALS } from "../evalResults";
import { useGet } from "../liveData";
import { useCan } from "../session";
import type { EvalObject, Page } from "../types";

const LIMIT = 100;
const EXAMPLE = `grouptune evals create --name sums --grader \\
  '{"type": "math", "name": "right", "reference": "{{item.reference_answer}}"}'
grouptune evals run eval_... held_out.jsonl --model smollm2-135m-instruct`;

export function Evals() {
  const { value, error, reload } = useGet<Page<EvalObject>>(`${EVALS}?order=desc&limit=${LIMIT}`);
  const writes = useCan("jobs:write");
  useTitle("Evals");
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the evals" />;
  return (
    <>
      <div class="title">
        <h1>Evals</h1>
        <div class="row">
          <button type="button" onClick={reload}>
            Refresh
          </button>
          {writes && (
            <a class="button primary" href="/ui/evals/new">
              New eval
            </a>
          )}
        </div>
      </div>
      {value.data.length ? (
        <>
          <DataTable label="Evals" columns={["Name", "Criteria", "Created"]}>
            {value.data.map((one) => (
              <tr key={one.id}>
                <td>
                  <a href={`/ui/evals/${one.id}`}>{one.name}</a>
                </td>
                <td>{one.testing_criteria.map((criterion) => String(criterion.name)).join(", ")}</td>
                <td class="nowrap">
                  <RelativeTime at={one.created_at} />
                </td>
              </tr>
            ))}
          </DataTable>
          {value.has_more && <p class="soft">These are the newest {LIMIT} evals.</p>}
        </>
      ) : (
        <EmptyState title="No evals yet">
          <p>
            An eval grades the answers of models to the rows of a file, and compares two models row by row: is the
            trained model better than its base, and on which rows? It needs a file with held-out rows, one or more
            graders as criteria, and the models that answer.
          </p>
          <p>
            Create one {writes ? "here" : "with a key that may write"}, with <code>client.evals</code> of the OpenAI
            SDK, or on the command line. See <a href="/docs/evals.html">Evals</a> in the documentation.
          </p>
          <CodeBlock title="Command line" text={EXAMPLE} />
        </EmptyState>
      )}
    </>
  );
}
