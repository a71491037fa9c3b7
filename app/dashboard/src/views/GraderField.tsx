// A grader as JSON: something to start from, and a try of it on the file's own answers before anything is trained.
import { useState } from "preact/hooks";
import { type ApiError, post } from "../api";
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
  const [tried, setTried] = useState<{ of: string; rows: GradedAnswer[] }>();
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const start = (event: Event) => {
    const select = event.currentTarget as HTMLSelectElement;
    set(graderFromTemplate(Number(select.value), fields));
    select.value = "";
  };
  const attempt = () => {
    setBusy(true);
    setError(undefined);
    gradeAnswers(JSON.parse(value), file)
      .then((rows) => setTried({ of: value, rows }), setError)
      .finally(() => setBusy(false));
  };
  return (
    <div class="field">
      <div class="row between">
        <label for="grader">Grader (JSON)</label>
        <select aria-label="Start from a grader" value="" onChange={start}>
          <option value="" disabled>
            Start from …
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
            ? `This file's rows have ${fields.map((one) => `{{item.${one}}}`).join(", ")}.`
            : "It reads {{sample.output_text}} and the row's own fields, as {{item.field}}."}
        </p>
        <button type="button" disabled={Boolean(problem) || !file || busy} onClick={attempt}>
          {busy ? "Grading …" : "Try it on the file's answers"}
        </button>
      </div>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {error && <ErrorNotice error={error} />}
      {tried && tried.of === value && <Grades rows={tried.rows} />}
    </div>
  );
}

/** Grades what the first rows of the file bring along. */
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
  if (!rows.length) return <p class="soft">The first rows of this file bring no answers along: nothing to grade.</p>;
  const isFlat = new Set(rows.map((one) => one.reward)).size === 1 && rows.length > 1;
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label="Grades">
        <table>
          <thead>
            <tr>
              <th>Line</th>
              <th>Answer</th>
              <th>Reward</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((one, index) => (
              <tr key={index}>
                <td>{one.line}</td>
                <td class="text">
                  <SourceChip source={one.source} /> {one.text.slice(0, 200)}
                </td>
                <td>{one.error ? <span class="problem">✕ {one.error}</span> : <b>{number(one.reward)}</b>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {isFlat && !rows[0]?.error && (
        <p class="soft">All have the same reward. That is fine if these answers are equally good.</p>
      )}
    </>
  );
}
