// Chooses a row of a job's held-out or training file as the first prompt.

import { SourceChip } from "../components/primitives";
import { asText } from "../dataFile";
import { plural } from "../format";
import { modelTitle, type PromptSource } from "../modelNames";
import type { FileRow, Model } from "../types";
import { lineBefore, type RowSource } from "./rowSource";

interface Props {
  models: Model[];
  columns: string[];
  source: PromptSource | undefined;
  rows: RowSource | undefined;
  setSource: (source: PromptSource | undefined) => void;
  ask: () => void;
  isDisabled: boolean;
}

/** Returns the jobs that trained the models in the columns, by id, with the name of their model. */
function jobsOf(models: Model[], columns: string[]): Map<string, string> {
  const asked = models.filter(
    (model) => model.job_id && [model.id, ...model.aliases].some((id) => columns.includes(id)),
  );
  return new Map(asked.map(({ id, job_id }) => [job_id ?? "", modelTitle(id.replace(/:ckpt-step-\d+$/, ""))]));
}

export function RowPicker({ models, columns, source, rows, setSource, ask, isDisabled }: Props) {
  const jobs = jobsOf(models, columns);
  if (source && !jobs.has(source.job)) jobs.set(source.job, rows?.job?.user_provided_suffix ?? source.job);
  if (!jobs.size) return null;
  const line = rows?.row?.line ?? source?.row ?? 1;
  const to = (row: number) => source && setSource({ ...source, row: Math.max(1, Math.floor(row) || 1) });
  const toPrevious = async (file: string, line: number) => to((await lineBefore(file, line)) ?? line);
  return (
    <section class="picker" aria-label="Row as prompt">
      <label class="field">
        <span>Row of a job as prompt</span>
        <select
          value={source ? `${source.job} ${source.part}` : ""}
          onChange={(event) => {
            const [job, part] = event.currentTarget.value.split(" ");
            setSource(job ? { job, part: part as PromptSource["part"], row: 1 } : undefined);
          }}
        >
          <option value="">none</option>
          {[...jobs].map(([job, name]) => (
            <>
              <option value={`${job} heldout`}>held-out file of {name}</option>
              <option value={`${job} training`}>training file of {name}</option>
            </>
          ))}
        </select>
      </label>
      {source && rows?.error && <p class="problem">✕ {rows.error.message}</p>}
      {source && rows?.file === null && (
        <p class="problem">✕ This job has no held-out file. Choose its training file.</p>
      )}
      {source && rows?.file && rows.count > 0 && (
        <>
          <div class="row">
            <button
              type="button"
              aria-label="Previous row"
              disabled={line <= 1}
              onClick={() => void toPrevious(rows.file ?? "", line)}
            >
              ◀
            </button>
            <input
              type="number"
              class="short"
              aria-label="Line"
              min={1}
              value={line}
              onChange={(event) => to(Number(event.currentTarget.value))}
            />
            <button type="button" aria-label="Next row" disabled={!rows.hasMore} onClick={() => to(line + 1)}>
              ▶
            </button>
            <button
              type="button"
              title={`One of ${plural(rows.count, "row")}`}
              onClick={() => to(1 + Math.floor(Math.random() * rows.count))}
            >
              Random
            </button>
          </div>
          {rows.row ? (
            <RowPreview row={rows.row} />
          ) : (
            <p class="problem">
              ✕ The file has {plural(rows.count, "row")}, and none from line {source.row} on.
            </p>
          )}
          <button type="button" class="primary wide" disabled={isDisabled || !rows.row} onClick={ask}>
            Ask this row
          </button>
        </>
      )}
    </section>
  );
}

function RowPreview({ row }: { row: FileRow }) {
  return (
    <div class="row-preview" tabIndex={0} role="region" aria-label={`Line ${row.line}`}>
      {row.messages.map((message, index) => (
        <p key={index}>
          <span class="chip">{String(message.role)}</span> {asText(message.content ?? message.tool_calls)}
        </p>
      ))}
      {row.tools.length > 0 && (
        <p class="soft">
          <span class="chip">tools</span> {row.tools.map(toolName).join(", ")}
        </p>
      )}
    </div>
  );
}

export const toolName = (tool: unknown): string =>
  (tool as { function?: { name?: string } } | null)?.function?.name ?? "?";

/** The answers that the row contains, to compare with. */
export function KnownAnswers({ row }: { row: FileRow }) {
  const reference = row.item.reference_answer;
  return (
    <>
      {reference !== undefined && (
        <div class="turn">
          <span class="chip">reference</span>
          <span>{asText(reference)}</span>
        </div>
      )}
      {row.answers.length > 0 && (
        <details>
          <summary>{plural(row.answers.length, "known answer")}</summary>
          {row.answers.map((answer, index) => (
            <div key={index} class="turn">
              <SourceChip source={answer.source} />
              <span>{answer.text}</span>
            </div>
          ))}
        </details>
      )}
    </>
  );
}
