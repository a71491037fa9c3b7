// A grader as JSON, with templates and a test on the answers in the training file.
import { useState } from "preact/hooks";
import { type ApiError, post } from "../api";
import { DataTable } from "../components/DataTable";
import { ErrorNotice, SourceChip } from "../components/primitives";
import { answersOf, parseRow, readLines } from "../dataFile";
import { number } from "../format";
import { graderFromTemplate, TEMPLATES } from "./graderTemplates";

const READ_BYTES = 200_000;
const GRADED_ROWS = 3;
const RUN = "/v1/fine_tuning/alpha/graders/run";

interface Run {
  reward: number;
  metadata: { error: string | null };
}

interface GradedAnswer {
  line: number;
  source: string;
  text: string;
  reward: number;
  error: string | null;
}

interface Props {
  value: string;
  set: (value: string) => void;
  file: string;
  fields: string[];
  problem: string | undefined;
}

export function GraderField({ value, set, file, fields, problem }: Props) {
  const [graded, setGraded] = useState<{ of: string; rows: GradedAnswer[] }>();
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const start = (event: Event) => {
    const select = event.currentTarget as HTMLSelectElement;
    set(graderFromTemplate(Number(select.value), fields));
    select.value = "";
  };
  const test = () => {
    setBusy(true);
    setError(undefined);
    gradeAnswers(JSON.parse(value), file)
      .then((rows) => setGraded({ of: value, rows }), setError)
      .finally(() => setBusy(false));
  };
  return (
    <div class="field">
      <div class="row between">
        <label for="grader">Grader (JSON)</label>
        <select aria-label="Grader template" value="" onChange={start}>
          <option value="" disabled>
            Choose a template …
          </option>
          {TEMPLATES.map(({ title }, index) => (
            <option key={title} value={index}>
              {title}
            </option>
          ))}
        </select>
      </div>
      <textarea
        id="grader"
        rows={Math.min(18, Math.max(7, value.split("\n").length))}
        spellcheck={false}
        value={value}
        onInput={(event) => set(event.currentTarget.value)}
      />
      <div class="row between">
        <p class="soft">
          {fields.length
            ? `All rows of this file have ${fields.map((field) => `{{item.${field}}}`).join(", ")}.`
            : "A grader reads the answer as {{sample.output_text}} and fields of the row as {{item.field}}."}
        </p>
        <button type="button" disabled={Boolean(problem) || !file || busy} onClick={test}>
          {busy ? "Grading …" : "Test on answers in the file"}
        </button>
      </div>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {error && <ErrorNotice error={error} />}
      {graded && graded.of === value && <Grades rows={graded.rows} />}
    </div>
  );
}

/** Grades the answers in the first rows of the file. */
async function gradeAnswers(grader: unknown, file: string): Promise<GradedAnswer[]> {
  const { lines } = await readLines(file, READ_BYTES);
  const rows = lines.flatMap((line, index) => {
    const row = parseRow(line);
    return row ? [{ line: index + 1, row }] : [];
  });
  const wanted = rows
    .filter(({ row }) => answersOf(row).length)
    .slice(0, GRADED_ROWS)
    .flatMap(({ line, row }) => answersOf(row).map((answer) => ({ line, row, ...answer })));
  return Promise.all(
    wanted.map(async ({ line, row, source, text }) => {
      const run = await post<Run>(RUN, { grader, model_sample: text, item: row });
      return { line, source, text, reward: run.reward, error: run.metadata.error };
    }),
  );
}

function Grades({ rows }: { rows: GradedAnswer[] }) {
  if (!rows.length) return <p class="soft">The first rows of this file contain no answers to grade.</p>;
  const isFlat = new Set(rows.map((row) => row.reward)).size === 1 && rows.length > 1;
  return (
    <>
      <DataTable label="Grades" columns={["Line", "Answer", "Reward"]}>
        {rows.map((row, index) => (
          <tr key={index}>
            <td>{row.line}</td>
            <td class="text">
              <SourceChip source={row.source} /> {row.text.slice(0, 200)}
            </td>
            <td>{row.error ? <span class="problem">✕ {row.error}</span> : <b>{number(row.reward)}</b>}</td>
          </tr>
        ))}
      </DataTable>
      {isFlat && !rows[0]?.error && (
        <p class="soft">All answers have the same reward. That is fine if they are equally good.</p>
      )}
    </>
  );
}
