// A form for a new eval and its first runs, and one for further runs.
import { useEffect, useMemo, useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { ApiError, post } from "../api";
import { FormErrors } from "../components/FormErrors";
import { TextField } from "../components/FormFields";
import { EmptyState, ErrorNotice, Loading, useTitle } from "../components/primitives";
import { EVALS } from "../evalResults";
import type { Problem } from "../formProblems";
import { useGet } from "../liveData";
import { useLocation } from "../root";
import { useCan } from "../session";
import type { EvalObject, EvalRun, Model, Page } from "../types";
import { CriteriaField, newCriterion } from "./CriteriaField";
import {
  EMPTY_RUN,
  evalRequest,
  problemOfRun,
  type RowShape,
  type RunForm,
  runFormFrom,
  runProblems,
  runRequests,
  withDefaults,
} from "./evalForm";
import { useSuggestedGrader } from "./GraderField";
import { graderText } from "./graderTemplates";
import { OtherProblems } from "./JobValidation";
import { RunFields, useEvalFiles } from "./RunFields";

const NONE: Problem[] = [];

export function NewEval() {
  useTitle("New eval");
  return useCan("jobs:write") ? <NewEvalForm /> : <ReadOnly />;
}

export function NewEvalRun() {
  const { params } = useRoute();
  useTitle("New run");
  return useCan("jobs:write") ? <NewRunForm key={params.id} id={params.id ?? ""} /> : <ReadOnly />;
}

function ReadOnly() {
  return (
    <EmptyState title="Your key is read-only">
      <p>
        Creating evals requires a key with the scope jobs:write. Sign in with another key, or contact an administrator.
      </p>
    </EmptyState>
  );
}

/** Sends requests in order. Those that have succeeded are not repeated, however often the form is sent. */
function useSending() {
  const [done] = useState(() => new Map<string, unknown>());
  const [problems, setProblems] = useState(NONE);
  const [isBusy, setBusy] = useState(false);
  const [attempt, setAttempt] = useState(0);
  const once = async <T,>(path: string, body: unknown): Promise<T> => {
    const key = `${path} ${JSON.stringify(body)}`;
    if (!done.has(key)) done.set(key, await post<T>(path, body));
    return done.get(key) as T;
  };
  const run = async (work: () => Promise<void>) => {
    setBusy(true);
    setProblems(NONE);
    try {
      await work();
    } catch (problem) {
      if (!isProblem(problem)) throw problem;
      setProblems([problem]);
      setAttempt((old) => old + 1);
    } finally {
      setBusy(false);
    }
  };
  const createRuns = async (evalId: string, bodies: Record<string, unknown>[], form: RunForm) => {
    for (const body of bodies) {
      try {
        await once<EvalRun>(`${EVALS}/${evalId}/runs`, body);
      } catch (problem) {
        const { param, message } = problem as Problem;
        throw isProblem(problem) ? problemOfRun({ param, message }, body, form) : problem;
      }
    }
  };
  return { problems, attempt, isBusy, run, once, createRuns };
}

/** Returns the bodies of the runs; throws the first problem of a form that is not complete, so that nothing is created. */
function checkedRuns(form: RunForm, shape: RowShape | undefined): Record<string, unknown>[] {
  const run = withDefaults(form, shape);
  const [first] = runProblems(run, shape);
  if (first) throw first;
  return runRequests(run);
}

const isProblem = (value: unknown): value is Problem =>
  value instanceof ApiError || (value !== null && typeof value === "object" && "param" in value && "message" in value);

function NewEvalForm() {
  const { route, query } = useLocation();
  const models = useGet<{ data: Model[] }>("/v1/models");
  const [name, setName] = useState("");
  const [criteria, setCriteria] = useState<string[]>();
  const [run, setRun] = useState<RunForm>({ ...EMPTY_RUN, file: query.file ?? "" });
  const set = (changed: Partial<RunForm>) => setRun((old) => ({ ...old, ...changed }));
  const found = useEvalFiles(run.file);
  const sending = useSending();
  const fields = found?.shape?.fields ?? [];
  const isTraining = found?.chosen?.purpose === "fine-tune";
  const suggestion = useSuggestedGrader(isTraining ? run.file : "");
  const suggested = isTraining && suggestion?.of === run.file ? suggestion.suggested : undefined;
  const newest = found?.files[0]?.id;
  useEffect(() => {
    if (newest && !run.file) set({ file: newest });
  }, [newest]);
  // The first criterion follows the file until the user changes it.
  const followed = useMemo(
    () => [suggested?.grader ? graderText(suggested.grader) : newCriterion([], fields)],
    [suggested, fields.join()],
  );
  const shown = criteria ?? followed;
  const { body, problems } = evalRequest(name, shown, fields);
  const send = (event: Event) => {
    event.preventDefault();
    if (problems.length) return;
    void sending.run(async () => {
      const runs = checkedRuns(run, found?.shape);
      const created = await sending.once<EvalObject>(EVALS, body);
      await sending.createRuns(created.id, runs, run);
      route(`/ui/evals/${created.id}`);
    });
  };
  if (models.error) return <ErrorNotice error={models.error} retry={models.reload} />;
  if (!models.value || !found) return <Loading what="models and files" />;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/evals">Evals</a> / new
          </p>
          <h1>New eval</h1>
        </div>
      </div>
      <p class="soft">
        An eval asks models for answers to the rows of a file and grades them. See <a href="/docs/evals.html">Evals</a>{" "}
        in the documentation.
      </p>
      <form class="form narrow" onSubmit={send} noValidate>
        <FormErrors
          problems={problems.length ? problems : sending.problems}
          focusOn={sending.attempt}
          rest={(others) => <OtherProblems problems={others} />}
        >
          <TextField label="Name" kind="text" value={name} set={setName} path="name" placeholder="optional" />
          <RunFields form={run} set={set} found={found} models={models.value.data} />
          <CriteriaField
            values={shown}
            set={setCriteria}
            file={isTraining ? run.file : ""}
            fields={fields}
            suggested={suggested}
          />
        </FormErrors>
        <button type="submit" class="primary" disabled={sending.isBusy}>
          {sending.isBusy ? "Checking the rows …" : "Create and run"}
        </button>
      </form>
    </>
  );
}

function NewRunForm({ id }: { id: string }) {
  const { route } = useLocation();
  const parent = useGet<EvalObject>(`${EVALS}/${id}`);
  const latest = useGet<Page<EvalRun>>(`${EVALS}/${id}/runs?order=desc&limit=1`);
  const models = useGet<{ data: Model[] }>("/v1/models");
  const [run, setRun] = useState<RunForm>();
  const found = useEvalFiles(run?.file ?? "");
  const sending = useSending();
  useEffect(() => {
    const [source] = latest.value?.data.map((one) => one.data_source as Record<string, unknown>) ?? [];
    if (latest.value) setRun((old) => old ?? (source ? runFormFrom(source) : EMPTY_RUN));
  }, [latest.value]);
  const failed = parent.error ?? models.error;
  if (failed) return <ErrorNotice error={failed} />;
  if (!parent.value || !models.value || !found || !run) return <Loading what="the eval" />;
  const send = (event: Event) => {
    event.preventDefault();
    void sending.run(async () => {
      await sending.createRuns(id, checkedRuns(run, found.shape), run);
      route(`/ui/evals/${id}`);
    });
  };
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/evals">Evals</a> / <a href={`/ui/evals/${id}`}>{parent.value.name}</a> / new run
          </p>
          <h1>New run</h1>
        </div>
      </div>
      <p class="soft">Two runs can be compared if they have the same rows in the same order.</p>
      <form class="form narrow" onSubmit={send} noValidate>
        <FormErrors
          problems={sending.problems}
          focusOn={sending.attempt}
          rest={(others) => <OtherProblems problems={others} />}
        >
          <RunFields
            form={run}
            set={(changed) => setRun((old) => old && { ...old, ...changed })}
            found={found}
            models={models.value.data}
          />
        </FormErrors>
        <button type="submit" class="primary" disabled={sending.isBusy}>
          {sending.isBusy ? "Checking the rows …" : "Run"}
        </button>
      </form>
    </>
  );
}
