// The fields of a run of an eval: its rows, the models that answer, and what they are sent.
import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "../api";
import { Field, TextField } from "../components/FormFields";
import { ModelSelect } from "../components/ModelSelect";
import { ErrorNotice } from "../components/primitives";
import { parseRow, readLines } from "../dataFile";
import { useGet } from "../liveData";
import type { FileObject, FileReport, Model, Page } from "../types";
import { uniqueFiles } from "../uniqueFiles";
import { type RowShape, type RunForm, rowShape, SERVER, withDefaults } from "./evalForm";
import { FileField } from "./FileField";

const MAX_MODELS = 8;
/** Enough for the first row of most files. */
const FIRST_BYTES = 2 ** 18;
const TRAINING = "fine-tune";

export interface EvalFiles {
  files: FileObject[];
  chosen: FileObject | undefined;
  shape: RowShape | undefined;
  error: ApiError | undefined;
  reload: () => void;
}

/** The files that an eval can read, and what the rows of the chosen one are. */
export function useEvalFiles(id: string): EvalFiles | undefined {
  const { value, error, reload } = useGet<Page<FileObject>>("/v1/files");
  const [found, setFound] = useState<{ of: string; shape: RowShape }>();
  const usable = (value?.data ?? []).filter(
    ({ purpose, status }) => purpose === "evals" || (purpose === TRAINING && status === "processed"),
  );
  const chosen = usable.find((file) => file.id === id);
  const isTraining = chosen?.purpose === TRAINING;
  const report = useGet<FileReport>(isTraining ? `/v1/files/${id}/report` : null);
  useEffect(() => {
    if (!chosen || isTraining) return;
    let current = true;
    void readLines(chosen.id, FIRST_BYTES).then(({ lines }) => {
      const row = parseRow(lines.find((line) => line.trim()) ?? "");
      if (current) setFound({ of: chosen.id, shape: rowShape(row ?? {}) });
    });
    return () => {
      current = false;
    };
  }, [chosen?.id]);
  if (!value && !error) return undefined;
  let shape = found?.of === id ? found.shape : undefined;
  if (isTraining && report.value?.file_id === id)
    shape = { fields: everywhere(report.value.report), hasItems: false, hasAnswers: false };
  return { files: uniqueFiles(usable, [id]), chosen, shape, error, reload };
}

function everywhere(report: FileReport["report"]): string[] {
  const { rows, item_fields } = (report ?? {}) as { rows?: number; item_fields?: Record<string, number> };
  return Object.entries(item_fields ?? {}).flatMap(([name, count]) => (count === rows ? [name] : []));
}

interface Props {
  form: RunForm;
  set: (changed: Partial<RunForm>) => void;
  found: EvalFiles;
  models: Model[];
}

export function RunFields({ form, set, found, models }: Props) {
  const { shape } = found;
  const { prompt, usesStored } = withDefaults(form, shape);
  return (
    <>
      {found.error && <ErrorNotice error={found.error} retry={found.reload} />}
      <FileField
        label="Rows"
        id="rows"
        path="data_source.source"
        files={found.files}
        value={form.file}
        set={(file) => set({ file, prompt: undefined, usesStored: undefined })}
        reload={found.reload}
        purpose="evals"
      />
      {shape?.hasAnswers && (
        <label class="row">
          <input
            type="checkbox"
            checked={usesStored}
            onChange={(event) => set({ usesStored: event.currentTarget.checked })}
          />
          Grade the answers in the file; no model answers
        </label>
      )}
      {!usesStored && (
        <>
          <ModelsField models={models} chosen={form.models} set={(chosen) => set({ models: chosen })} />
          <fieldset>
            <legend>Model of another server</legend>
            <div class="settings-grid">
              <TextField
                label="Server"
                kind="text"
                value={form.server}
                set={(server) => set({ server })}
                placeholder="https://api.example.com/v1"
                path="data_source.base_url"
                help="An OpenAI-compatible server answers the same rows in a run of its own, with the project's key for it."
              />
              <TextField
                label="Server's model"
                kind="text"
                value={form.serverModel}
                set={(serverModel) => set({ serverModel })}
                placeholder="optional"
                path={`data_source.model.${SERVER}`}
              />
            </div>
          </fieldset>
          <Field
            label="Message to the model"
            id="prompt"
            path="data_source.input_messages"
            help={
              shape?.hasItems === false
                ? "By default the messages of the row before its answer. A text with fields of the row replaces them: `{{item.question}}`."
                : "A text with fields of the item, such as `{{item.question}}`."
            }
          >
            {(described) => (
              <textarea
                id="prompt"
                rows={3}
                value={prompt}
                placeholder={shape?.hasItems === false ? "the messages of the row" : "{{item.question}}"}
                onInput={(event) => set({ prompt: event.currentTarget.value })}
                {...described}
              />
            )}
          </Field>
          <fieldset>
            <legend>Sampling</legend>
            <div class="settings-grid">
              <TextField
                label="Temperature"
                value={form.temperature}
                set={(temperature) => set({ temperature })}
                path="data_source.sampling_params.temperature"
                help="0 always takes the most probable token."
              />
              <TextField
                label="Max tokens"
                value={form.max_completion_tokens}
                set={(max_completion_tokens) => set({ max_completion_tokens })}
                path="data_source.sampling_params.max_completion_tokens"
                help="Longest answer; empty for what the context has room for."
              />
              <TextField
                label="Seed"
                value={form.seed}
                set={(seed) => set({ seed })}
                placeholder="42"
                path="data_source.sampling_params.seed"
                help="The same seed gives the same answers."
              />
            </div>
          </fieldset>
        </>
      )}
    </>
  );
}

function ModelsField(props: { models: Model[]; chosen: string[]; set: (models: string[]) => void }) {
  const { models, chosen, set } = props;
  return (
    <fieldset class="models">
      <legend>Models</legend>
      {chosen.map((model, index) => {
        const id = `model-${index + 1}`;
        return (
          <div key={index} class="row">
            <Field label={`Model ${index + 1}`} id={id} path={`data_source.model.${index}`}>
              {(described) => (
                <ModelSelect
                  value={model}
                  models={models}
                  taken={chosen}
                  set={(changed) => set(chosen.with(index, changed))}
                  attributes={{ id, ...described }}
                />
              )}
            </Field>
            {chosen.length > 1 && (
              <button
                type="button"
                class="small"
                aria-label={`Remove model ${index + 1}`}
                onClick={() => set(chosen.filter((_, place) => place !== index))}
              >
                Remove
              </button>
            )}
          </div>
        );
      })}
      <p class="help">Each model answers all rows in a run of its own. Any two runs can then be compared row by row.</p>
      {chosen.length < MAX_MODELS && chosen.length < models.length && (
        <button type="button" class="small" onClick={() => set([...chosen, ""])}>
          Add a model
        </button>
      )}
    </fieldset>
  );
}
