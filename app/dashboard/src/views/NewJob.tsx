// A form for the common settings of a job, which shows the request that it will send.

import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, get, JOBS, post } from "../api";
import { FormErrors, focusFirstProblem, useProblem } from "../components/FormErrors";
import { NumberField } from "../components/FormFields";
import { CodeBlock, EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import type { Problem } from "../formProblems";
import { requestFromJob, requestSnippets } from "../jobSettings";
import { useGet } from "../liveData";
import { ROOT, useLocation } from "../root";
import { jobFields, type SchemaField } from "../schemaFields";
import { useCan } from "../session";
import type { FileObject, FileReport, Job, Model, Page } from "../types";
import { uniqueFiles } from "../uniqueFiles";
import { AdvancedSettings, JobSetting } from "./AdvancedSettings";
import { BaseModelField } from "./BaseModelField";
import { Estimate } from "./Estimate";
import { FileField } from "./FileField";
import { NoAnswers } from "./FileState";
import { GraderField, useSchemas, useSuggestedGrader } from "./GraderField";
import { gradableFields, graderText, readGrader } from "./graderTemplates";
import { OtherProblems, useValidation, ValidationResult } from "./JobValidation";
import {
  EMPTY_FORM,
  formFromRequest,
  gradesDemonstrations,
  isGroupMethod,
  type JobForm,
  METHODS,
  OWN_INPUTS,
  requestFromForm,
  withDemonstrations,
} from "./jobForm";
import { LintSummary } from "./LintSummary";
import { MethodSuggestion } from "./MethodSuggestion";
import { TeacherField } from "./TeacherField";
import { TrackersField } from "./TrackersField";

/** Settings that are always shown. */
const FIRST = ["hyperparameters.n_epochs", "hyperparameters.max_steps", "suffix", "control"];
/** Has a check box of its own. */
const DEMONSTRATIONS = "demonstrations";

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
  const schemas = useSchemas();
  const choice = address.demonstrations === "graded" ? "graded" : "all";
  const [form, setForm] = useState(() =>
    withDemonstrations({ ...EMPTY_FORM, training_file: address.training_file ?? "" }, choice),
  );
  const [ownsGrader, setOwnsGrader] = useState(Boolean(address.from));
  const [ownsMethod, setOwnsMethod] = useState(Boolean(address.from));
  const [problem, setProblem] = useState<{ of: string; error: ApiError }>();
  const [failed, setFailed] = useState<ApiError>();
  const [sending, setSending] = useState(false);
  const [attempt, setAttempt] = useState(0);
  const report = useGet<FileReport>(form.training_file ? `/v1/files/${form.training_file}/report` : null);
  const suggestion = useSuggestedGrader(form.training_file);
  useEffect(() => {
    if (address.from)
      get<Job>(`${JOBS}/${address.from}`).then((job) => {
        const copy = formFromRequest(requestFromJob(job));
        setForm(choice === "graded" ? withDemonstrations(copy, choice) : copy);
      }, setFailed);
  }, [address.from]);
  const bases = (models.value?.data ?? []).filter((model) => !model.base_model);
  const ready = (files.value?.data ?? []).filter((file) => file.status === "processed");
  const offered = uniqueFiles(ready, [form.training_file, form.validation_file, form.test_file]);
  useEffect(() => {
    const [base, file] = [bases[0]?.id, ready[0]?.id];
    setForm((old) => ({ ...old, model: old.model || base || "", training_file: old.training_file || file || "" }));
  }, [models.value, files.value]);
  const fields = useMemo(() => jobFields(schemas ?? {}, form.method, OWN_INPUTS), [schemas, form.method]);
  const { body, error: broken } = useMemo(() => requestFromForm(form, fields.settings), [form, fields]);
  const checked = useValidation(broken || !schemas || !form.model || !form.training_file ? null : body);
  const set = (changed: Partial<JobForm>) => setForm((old) => ({ ...old, ...changed }));
  // The grader follows the file until the user chooses another one.
  useEffect(() => {
    if (suggestion?.of !== form.training_file || ownsGrader) return;
    set({ grader: suggestion.suggested?.grader ? graderText(suggestion.suggested.grader) : EMPTY_FORM.grader });
  }, [suggestion]);
  const text = JSON.stringify(body);
  const problems = useMemo((): Problem[] => {
    if (problem?.of === text) return [problem.error];
    // Problems stay until the changed request is validated: they would flicker while the user types. Those of another
    // file do not: its fields say nothing about this one.
    return checked && JSON.parse(checked.of).training_file === form.training_file ? checked.validation.errors : [];
  }, [problem, checked, text]);
  const send = (event: Event) => {
    event.preventDefault();
    setAttempt((old) => old + 1);
    const isKnown = broken || checked?.of === text;
    if (isKnown && focusFirstProblem(event.currentTarget as HTMLFormElement)) return;
    setSending(true);
    setProblem(undefined);
    post<Job>(JOBS, body)
      .then(
        (job) => route(`/ui/jobs/${job.id}`),
        (error: ApiError) => {
          setProblem({ of: text, error });
          setAttempt((old) => old + 1);
        },
      )
      .finally(() => setSending(false));
  };
  if (models.error) return <ErrorNotice error={models.error} retry={models.reload} />;
  if (!models.value || !files.value || !schemas) return <Loading what="models and files" />;
  const isGroup = isGroupMethod(form.method);
  const isSelective = gradesDemonstrations(form);
  const leaveOut = (isOn: boolean) => setForm((old) => withDemonstrations(old, isOn ? "graded" : "all"));
  const values = { settings: form.settings, job: form.job };
  const change = (scope: "settings" | "job", changed: Record<string, unknown>) => set({ [scope]: changed });
  const isFirst = ({ path }: SchemaField) => FIRST.includes(path);
  const hasTeacher = form.method === "gft" && form.teacher > 0 && Boolean(form.teacher_settings.model);
  const [group, graderPath] = [`method.${form.method}.group`, `method.${form.method}.grader`];
  const isGraderValid = checked?.of === text && !problems.some(({ param }) => param?.startsWith(graderPath));
  const grader = (
    <GraderField
      value={form.grader}
      set={(changed) => {
        const followed = suggestion?.suggested?.grader;
        setOwnsGrader(!followed || changed !== graderText(followed));
        set({ grader: changed });
      }}
      file={form.training_file}
      fields={gradableFields(report.value?.report)}
      problem={broken}
      path={graderPath}
      isValid={isGraderValid}
      suggested={suggestion?.of === form.training_file ? suggestion.suggested : undefined}
    />
  );
  return (
    <>
      <div class="title">
        <h1>New job</h1>
      </div>
      <div class="halves">
        <form onSubmit={send} class="form" noValidate>
          <FormErrors problems={problems} focusOn={attempt} rest={(others) => <OtherProblems problems={others} />}>
            {failed && <ErrorNotice error={failed} />}
            <BaseModelField value={form.model} set={(model) => set({ model })} changed={models.reload} />
            <FileField
              label="Training file"
              id="training"
              path="training_file"
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
              path="validation_file"
              files={offered}
              value={form.validation_file}
              set={(validation_file) => set({ validation_file })}
              reload={files.reload}
              none="none: no evaluation before and after training"
            />
            {form.validation_file && (
              <FileField
                label="Test file"
                id="test"
                path="test_file"
                files={offered.filter((file) => file.id !== form.validation_file)}
                value={form.test_file}
                set={(test_file) => set({ test_file })}
                reload={files.reload}
                none="none: half of the held-out file reports the results"
              />
            )}
            <fieldset class="choices">
              <legend>Method</legend>
              <MethodSuggestion
                file={form.training_file}
                grader={ownsGrader && readGrader(form.grader) ? form.grader : null}
                isValid={!ownsGrader || isGraderValid}
                chosen={{ method: form.method, demonstrations: isSelective ? "graded" : "all" }}
                take={({ method, demonstrations }) => {
                  setOwnsMethod(true);
                  setForm((old) => withDemonstrations({ ...old, method }, demonstrations));
                }}
                follow={(isOnlyPairs) => ownsMethod || set({ method: isOnlyPairs ? "dpo" : EMPTY_FORM.method })}
              />
              {METHODS.map(({ name, title, text: help }) => (
                <label key={name} class={form.method === name ? "chosen" : ""}>
                  <input
                    type="radio"
                    name="method"
                    checked={form.method === name}
                    onChange={() => {
                      setOwnsMethod(true);
                      set({ method: name });
                    }}
                  />
                  <span>
                    <b>{title}</b> {help}
                  </span>
                </label>
              ))}
            </fieldset>
            {fields.settings.some(({ path }) => path === DEMONSTRATIONS) && (
              <DemonstrationsField isGroup={isGroup} isOn={isSelective} set={leaveOut} method={form.method} />
            )}
            {isGroup ? (
              <>
                {grader}
                <fieldset class="row">
                  <legend>Answers per group</legend>
                  {form.method === "gft" && (
                    <>
                      <NumberField
                        label="expert"
                        path={`${group}.expert`}
                        value={form.expert}
                        max={1}
                        set={(expert) => set({ expert })}
                      />
                      <NumberField
                        label="teacher"
                        path={`${group}.teacher`}
                        value={form.teacher}
                        max={32}
                        set={(teacher) => set({ teacher })}
                      />
                    </>
                  )}
                  <NumberField
                    label="self"
                    path={`${group}.self`}
                    value={form.self}
                    max={64}
                    set={(self) => set({ self })}
                  />
                  <GroupProblem path={group} />
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
            ) : (
              <>
                <label class="row">
                  <input
                    type="checkbox"
                    checked={form.gradesHeldOut || isSelective}
                    disabled={isSelective}
                    onChange={(event) => set({ gradesHeldOut: event.currentTarget.checked })}
                  />
                  Grade the answers to held-out rows
                </label>
                {(form.gradesHeldOut || isSelective) && grader}
              </>
            )}
            <fieldset>
              <legend>Training length</legend>
              <div class="settings-grid">
                {fields.settings.filter(isFirst).map((field) => (
                  <JobSetting
                    key={field.path}
                    {...{ field, method: form.method, values: form.settings, set: change }}
                    scope="settings"
                  />
                ))}
              </div>
            </fieldset>
            <AdvancedSettings
              settings={fields.settings.filter(
                (field) =>
                  !isFirst(field) &&
                  field.path !== DEMONSTRATIONS &&
                  (hasTeacher || !field.path.startsWith("teacher.")),
              )}
              job={fields.job.filter((field) => !isFirst(field))}
              values={values}
              set={change}
              method={form.method}
            />
            <TrackersField value={form.integrations} set={(integrations) => set({ integrations })} />
            {fields.job.filter(isFirst).map((field) => (
              <JobSetting
                key={field.path}
                {...{ field, method: form.method, values: form.job, set: change }}
                scope="job"
              />
            ))}
          </FormErrors>
          <ValidationResult checked={checked?.validation} />
          {checked?.validation.lint && (
            <LintSummary
              lint={checked.validation.lint}
              file={form.training_file}
              isLeftOut={isSelective}
              {...(isSelective || !form.expert ? {} : { leaveOut: () => leaveOut(true) })}
            />
          )}
          {checked?.validation.plan && <Estimate text={checked.of} />}
          <button type="submit" class="primary" disabled={sending}>
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

/** Whether the job trains only the demonstrations that pass its grader. */
function DemonstrationsField(props: { isGroup: boolean; isOn: boolean; set: (isOn: boolean) => void; method: string }) {
  const problem = useProblem(`method.${props.method}.${DEMONSTRATIONS}`);
  return (
    <div>
      <label class="row">
        <input
          type="checkbox"
          checked={props.isOn}
          onChange={(event) => props.set(event.currentTarget.checked)}
          aria-describedby="demonstrations-help"
        />
        Train only the demonstrations that pass the grader
      </label>
      <p class="soft" id="demonstrations-help">
        {problem && <span class="problem">✕ {problem} </span>}
        {props.isGroup
          ? "Groups of the other rows have no expert."
          : "The other rows are left out. All are graded once, before training."}
      </p>
    </div>
  );
}

/** A problem of the group as a whole, such as a group without contrast. */
function GroupProblem({ path }: { path: string }) {
  const problem = useProblem(path);
  return problem ? <p class="problem">✕ {problem}</p> : null;
}
