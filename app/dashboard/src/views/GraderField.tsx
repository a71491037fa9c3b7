// A grader: a form, the same as JSON, the suggestion for the file, and what it pays for the answers in the file.
import { useEffect, useId, useState } from "preact/hooks";
import { get } from "../api";
import { Field, Marked } from "../components/FormFields";
import { useGet } from "../liveData";
import type { Schemas } from "../schemaFields";
import type { SuggestedGrader } from "../types";
import { GraderForm } from "./GraderForm";
import { GraderPay } from "./GraderPay";
import { graderFromTemplate, graderText, readGrader, TEMPLATES } from "./graderTemplates";

interface Props {
  /** The grader as JSON. */
  value: string;
  set: (value: string) => void;
  file: string;
  /** Fields that every row of the file has. */
  fields: string[];
  problem: string | undefined;
  /** Path of the grader in the request. */
  path: string;
  suggested?: SuggestedGrader | undefined;
  /** False while the server has not accepted the grader; without it, only the JSON is checked. */
  isValid?: boolean;
  /** Name of the group of inputs. */
  legend?: string;
}

export function useSchemas(): Schemas | undefined {
  return useGet<{ components: { schemas: Schemas } }>("/openapi.json").value?.components.schemas;
}

/** The grader that the server suggests for a file; undefined in `suggested` if it cannot. */
export function useSuggestedGrader(file: string): { of: string; suggested: SuggestedGrader | undefined } | undefined {
  const [suggestion, setSuggestion] = useState<{ of: string; suggested: SuggestedGrader | undefined }>();
  useEffect(() => {
    if (!file) return;
    let current = true;
    get<SuggestedGrader>(`/v1/files/${file}/suggested_grader`).then(
      (suggested) => current && setSuggestion({ of: file, suggested }),
      () => current && setSuggestion({ of: file, suggested: undefined }),
    );
    return () => {
      current = false;
    };
  }, [file]);
  return suggestion;
}

export function GraderField(props: Props) {
  const { value, set, file, fields, problem, path, suggested, isValid = true, legend = "Grader" } = props;
  const id = useId();
  const schemas = useSchemas();
  const grader = readGrader(value);
  const start = (event: Event) => {
    const select = event.currentTarget as HTMLSelectElement;
    set(graderText(graderFromTemplate(Number(select.value), fields)));
    select.value = "";
  };
  return (
    <fieldset class="grader">
      <legend>{legend}</legend>
      <div class="row between">
        {suggested && file ? <Suggested {...{ suggested, value, set }} /> : <span />}
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
      {schemas && grader && (
        <GraderForm
          schemas={schemas}
          value={grader}
          set={(changed) => set(graderText(changed))}
          path={path}
          fields={fields}
        />
      )}
      {!grader && <p class="soft">Fix the JSON below to see the grader as a form.</p>}
      <details open={!grader || undefined}>
        <summary>Expert view: the grader as JSON</summary>
        <Field label="Grader (JSON)" id={id} path={path} problem={problem}>
          {(described) => (
            <textarea
              id={id}
              rows={Math.min(18, Math.max(7, value.split("\n").length))}
              spellcheck={false}
              value={value}
              onInput={(event) => set(event.currentTarget.value)}
              {...described}
            />
          )}
        </Field>
      </details>
      <GraderPay grader={value} file={file} isValid={isValid} />
    </fieldset>
  );
}

function Suggested(props: { suggested: SuggestedGrader; value: string; set: (value: string) => void }) {
  const { suggested, value, set } = props;
  if (!suggested.grader)
    return (
      <p class="soft">
        <Marked text={suggested.reason} />
      </p>
    );
  const isUsed = JSON.stringify(readGrader(value)) === JSON.stringify(suggested.grader);
  return (
    <div class="suggested">
      <p>
        <b>{isUsed ? "✓ Suggested for this file." : "Suggested for this file:"}</b> <Marked text={suggested.reason} />
      </p>
      {!isUsed && (
        <button type="button" class="small" onClick={() => set(graderText(suggested.grader))}>
          Use the suggested grader
        </button>
      )}
    </div>
  );
}
