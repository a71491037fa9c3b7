// A form for the common settings of a job, which shows the request that it will send.

import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, get, JOBS, post } from "../api";
import { NumberField, TextField } from "../components/FormFields";
import { CodeBlock, EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { number, plural } from "../format";
import { requestFromJob, requestSnippets } from "../jobSettings";
import { useGet } from "../liveData";
import { ROOT, useLocation } from "../root";
import { useCan } from "../session";
import type { FileObject, FileReport, Job, Model, Page, Validation } from "../types";
import { uniqueFiles } from "../uniqueFiles";
import { BaseModelField } from "./BaseModelField";
import { Estimate } from "./Estimate";
import { FileField } from "./FileField";
import { NoAnswers } from "./FileState";
import { GraderField } from "./GraderField";
import { gradableFields, graderFromTemplate } from "./graderTemplates";
import { EMPTY_FORM, formFromRequest, type JobForm, METHODS, requestFromForm } from "./jobForm";
import { LintSummary } from "./LintSummary";
import { RowsUsed } from "./RowUse";
import { TeacherField } from "./TeacherField";
import { TrackersField } from "./TrackersField";

const PAUSE_MS = 350;

export function NewJob() {
  useTitle("New job");
  if (useCan("jobs:write")) return <NewJobForm />;
  return (
    <EmptyState title="Your key is read-only">
      <p>
        Creating jobs requires a key with the scope jobs:write. Sign in with another key, or contact an administrator.
      </p>
    </EmptyState>
  );
}

function NewJobForm() {
  const { query: address, route } = useLocation();
  const models = useGet<{ data: Model[] }>("/v1/models");
  const files = useGet<Page<FileObject>>("/v1/files?purpose=fine-tune");
  const [form, setForm] = useState<JobForm>({ ...EMPTY_FORM, training_file: address.training_file ?? "" });
  const [problem, setProblem] = useState<ApiError>();
  const [sending, setSending] = useState(false);
  const report = useGet<FileReport>(form.training_file ? `/v1/files/${form.training_file}/report` : null);
  useEffect(() => {
    if (address.from)
      get<Job>(`${JOBS}/${address.from}`).then((job) => setForm(formFromRequest(requestFromJob(job))), setProblem);
  }, [address.from]);
  const bases = (models.value?.data ?? []).filter((model) => !model.base_model);
  const ready = (files.value?.data ?? []).filter((file) => file.status === "processed");
  const offered = uniqueFiles(ready, [form.training_file, form.validation_file]);
  useEffect(() => {
    const [base, file] = [bases[0]?.id, ready[0]?.id];
    setForm((old) => ({ ...old, model: old.model || base || "", training_file: old.training_file || file || "" }));
  }, [models.value, files.value]);
  const { body, error: broken } = useMemo(() => requestFromForm(form), [form]);
  const checked = useValidation(broken || !form.model || !form.training_file ? null : body);
  const set = (changed: Partial<JobForm>) => setForm((old) => ({ ...old, ...changed }));
  const send = (event: Event) => {
    event.preventDefault();
    setSending(true);
    setProblem(undefined);
    post<Job>(JOBS, body)
      .then((job) => route(`/ui/jobs/${job.id}`), setProblem)
      .finally(() => setSending(false));
  };
  const fields = gradableFields(report.value?.report);
  // The defaults depend on the file: pairs, a grader for its fields, or imitation if it has no fields to grade.
  useEffect(() => {
    if (!report.value?.report || address.from) return;
    const imitating = { method: report.value.report.preference_rows ? ("dpo" as const) : ("supervised" as const) };
    const fitting = fields.length && imitating.method !== "dpo" ? { grader: graderFromTemplate(0, fields) } : imitating;
    setForm((old) => (old.grader === EMPTY_FORM.grader ? { ...old, ...fitting } : old));
  }, [report.value]);
  if (models.error) return <ErrorNotice error={models.error} retry={models.reload} />;
  if (!models.value || !files.value) return <Loading what="models and files" />;
  const isGroup = form.method === "gft" || form.method === "reinforcement";
  return (
    <>
      <div class="title">
        <h1>New job</h1>
      </div>
      <div class="halves">
        <form onSubmit={send} class="form">
          <BaseModelField value={form.model} set={(model) => set({ model })} changed={models.reload} />
          <FileField
            label="Training file"
            id="training"
            files={offered}
            value={form.training_file}
            set={(training_file) => set({ training_file })}
            reload={files.reload}
          />
          {ready.find((file) => file.id === form.training_file)?.has_answers === false && (
            <NoAnswers id={form.training_file} />
          )}
          <FileField
            label="Held-out file"
            id="validation"
            files={offered}
            value={form.validation_file}
            set={(validation_file) => set({ validation_file })}
            reload={files.reload}
            none="none: no evaluation before and after training"
          />
          <fieldset class="choices">
            <legend>Method</legend>
            {METHODS.map(({ name, title, text }) => (
              <label key={name} class={form.method === name ? "chosen" : ""}>
                <input
                  type="radio"
                  name="method"
                  checked={form.method === name}
                  onChange={() => set({ method: name })}
                />
                <span>
                  <b>{title}</b> {text}
                </span>
              </label>
            ))}
          </fieldset>
          {isGroup && (
            <>
              <GraderField
                value={form.grader}
                set={(grader) => set({ grader })}
                file={form.training_file}
                fields={fields}
                problem={broken}
              />
              <fieldset class="row">
                <legend>Answers per group</legend>
                {form.method === "gft" && (
                  <>
                    <NumberField label="expert" value={form.expert} max={1} set={(expert) => set({ expert })} />
                    <NumberField label="teacher" value={form.teacher} max={32} set={(teacher) => set({ teacher })} />
                  </>
                )}
                <NumberField label="self" value={form.self} max={64} set={(self) => set({ self })} />
              </fieldset>
              {form.method === "gft" && form.teacher > 0 && (
                <TeacherField
                  value={form.teacher_settings}
                  set={(teacher_settings) => set({ teacher_settings })}
                  bases={bases}
                  count={form.teacher}
                />
              )}
            </>
          )}
          <fieldset class="row">
            <legend>Training length</legend>
            <TextField label="Epochs" value={form.n_epochs} placeholder="auto" set={(n_epochs) => set({ n_epochs })} />
            <TextField
              label="Max steps"
              value={form.max_steps}
              placeholder="no limit"
              set={(max_steps) => set({ max_steps })}
            />
          </fieldset>
          <details>
            <summary>More settings</summary>
            <div class="row wrap">
              <TextField
                label="Batch size"
                value={form.batch_size}
                placeholder="auto"
                set={(batch_size) => set({ batch_size })}
              />
              <TextField
                label="Learning-rate multiplier"
                value={form.learning_rate_multiplier}
                placeholder="auto"
                set={(learning_rate_multiplier) => set({ learning_rate_multiplier })}
              />
              <TextField label="LoRA rank" value={form.lora_r} placeholder="16" set={(lora_r) => set({ lora_r })} />
              {form.method === "gft" && (
                <TextField label="tau" value={form.tau} placeholder="0.7" set={(tau) => set({ tau })} />
              )}
              {form.method === "dpo" && (
                <TextField label="beta" value={form.beta} placeholder="0.1" set={(beta) => set({ beta })} />
              )}
              <TextField
                label="Max tokens per answer"
                value={form.max_tokens}
                placeholder="256"
                set={(max_tokens) => set({ max_tokens })}
              />
              <TextField label="Seed" value={form.seed} placeholder="random" set={(seed) => set({ seed })} />
              <TextField
                label="Gate"
                value={form.gate}
                placeholder="eval/accuracy >= 0.8"
                set={(gate) => set({ gate })}
                kind="text"
              />
              <TextField
                label="Alias for the model"
                value={form.alias}
                placeholder="prod"
                set={(alias) => set({ alias })}
                kind="text"
              />
            </div>
          </details>
          <TrackersField value={form.integrations} set={(integrations) => set({ integrations })} />
          <TextField
            label="Name (suffix)"
            value={form.suffix}
            placeholder="my-first-run"
            set={(suffix) => set({ suffix })}
            kind="text"
          />
          {problem && <ErrorNotice error={problem} />}
          <ValidationResult checked={checked?.validation} />
          {checked?.validation.lint && <LintSummary lint={checked.validation.lint} file={form.training_file} />}
          {checked?.validation.plan && <Estimate text={checked.of} />}
          <button
            type="submit"
            class="primary"
            disabled={sending || Boolean(broken) || checked?.validation.valid === false}
          >
            {sending ? "Creating …" : "Create job"}
          </button>
        </form>
        <section aria-label="Request">
          <h2>Request</h2>
          <CodeBlock title="POST /v1/fine_tuning/jobs" text={JSON.stringify(body, null, 2)} />
          <details>
            <summary>Shell command</summary>
            <CodeBlock title="Shell" text={requestSnippets(body, location.origin + ROOT).cli} />
          </details>
        </section>
      </div>
    </>
  );
}

interface Checked {
  /** The validated request, as text. */
  of: string;
  validation: Validation;
}

/** The server's validation of a request, requested a moment after the last change. */
function useValidation(body: unknown): Checked | undefined {
  const [checked, setChecked] = useState<Checked>();
  const text = body === null ? null : JSON.stringify(body);
  useEffect(() => {
    if (text === null) {
      setChecked(undefined);
      return;
    }
    let current = true;
    const timer = setTimeout(() => {
      post<Validation>(`${JOBS}/validate`, JSON.parse(text)).then(
        (validation) => current && setChecked({ of: text, validation }),
        (error: ApiError) => {
          const errors = [{ code: error.code, message: error.message, param: error.param }];
          if (current)
            setChecked({
              of: text,
              validation: { object: "fine_tuning.job.validation", valid: false, errors, warnings: [], plan: null },
            });
        },
      );
    }, PAUSE_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);
  return checked;
}

function ValidationResult({ checked }: { checked: Validation | undefined }) {
  if (!checked) return null;
  if (!checked.valid) {
    return (
      <>
        <ul class="notice bad plain" role="alert">
          {checked.errors.map(({ message, param }) => (
            <li key={message}>
              {param && <code>{param}</code>} {message}
            </li>
          ))}
        </ul>
        <RowsUsed of={checked} />
      </>
    );
  }
  const plan = checked.plan;
  return (
    <>
      <p class={`notice ${checked.warnings.length ? "hold" : "good"}`} role="status">
        {checked.warnings.length ? "⚠ Valid, with warnings." : "✓ Valid."}{" "}
        {plan
          ? `${plural(plan.rows, "row")}, ${plural(plan.total_steps, "step")}, learning rate ${number(plan.learning_rate)}.`
          : "The plan appears when the file is validated."}
      </p>
      <RowsUsed of={checked} />
      {checked.warnings.length > 0 && (
        <ul class="notice hold plain" role="status">
          {checked.warnings.map(({ message }) => (
            <li key={message}>⚠ {message}</li>
          ))}
        </ul>
      )}
    </>
  );
}
