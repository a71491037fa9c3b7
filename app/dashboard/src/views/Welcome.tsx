// The first page of a project without jobs: a job on sample data, or the way to a job on own data.

import { useState } from "preact/hooks";
import type { ApiError } from "../api";
import { useBaseModels } from "../baseModels";
import { CodeBlock, EmptyState, ErrorNotice, Loading } from "../components/primitives";
import { useGet } from "../liveData";
import { isBase } from "../modelNames";
import { ROOT, useLocation } from "../root";
import { useCan } from "../session";
import type { Model } from "../types";
import { modelFacts, Pull } from "./BaseModels";
import { createSampleJob, SMALL_MODEL } from "./sampleJob";

export function Welcome() {
  const [readsModels, readsFiles] = [useCan("models:read"), useCan("files:read")];
  const [writesJobs, writesFiles] = [useCan("jobs:write"), useCan("files:write")];
  return (
    <>
      <div class="title">
        <h1>Jobs</h1>
      </div>
      <EmptyState title="No jobs yet">
        <p>A job trains a base model on a file of examples with a grader, so that the model earns higher rewards.</p>
        {readsModels && readsFiles && writesJobs && writesFiles && <SampleJob />}
        <ul>
          {writesFiles && (
            <li>
              <a href="/ui/files">Upload a file</a> of your own: each line has a prompt, and an answer or fields for a
              grader (<a href="/docs/data.html">data formats</a>)
            </li>
          )}
          {writesJobs && (
            <li>
              <a href="/ui/new">Create a job</a>: a model, a file, a <a href="/docs/method.html">method</a> and a{" "}
              <a href="/docs/graders.html">grader</a>
            </li>
          )}
          <li>
            <a href="/docs/first-job.html">The first job</a>, step by step, in the <a href="/docs/">documentation</a>
          </li>
        </ul>
        <p>Programs that use the OpenAI SDK need only the address and a key:</p>
        <CodeBlock title="Python" text={python(SMALL_MODEL)} />
      </EmptyState>
    </>
  );
}

/** Creates the sample job in one click, or names the command that installs a base model. */
function SampleJob() {
  const models = useGet<{ data: Model[] }>("/v1/models");
  const [isCreating, setCreating] = useState(false);
  const [problem, setProblem] = useState<ApiError>();
  const { route } = useLocation();
  if (models.error) return <ErrorNotice error={models.error} retry={models.reload} />;
  if (!models.value) return <Loading what="the base models" />;
  const bases = models.value.data.filter(isBase).map(({ id }) => id);
  const model = bases.includes(SMALL_MODEL) ? SMALL_MODEL : bases[0];
  if (model === undefined) return <FirstModel done={models.reload} />;
  const create = () => {
    setCreating(true);
    setProblem(undefined);
    createSampleJob(model)
      .then((job) => route(`/ui/jobs/${job.id}`), setProblem)
      .finally(() => setCreating(false));
  };
  return (
    <>
      <p>
        <button type="button" class="primary" disabled={isCreating} onClick={create}>
          {isCreating ? "Creating the job …" : "Try with sample data"}
        </button>
      </p>
      <p class="soft">
        Uploads 580 additions and trains <code>{model}</code> to solve them. You see it learn, and can then ask it in
        the playground.
      </p>
      {problem && <ErrorNotice error={problem} />}
    </>
  );
}

/** Downloads the smallest model of the catalogue. */
function FirstModel({ done }: { done: () => void }) {
  const { value: list, error, reload } = useBaseModels();
  if (error) return <ErrorNotice error={error} retry={reload} />;
  const model = list?.data.find(({ id }) => id === SMALL_MODEL);
  if (!list || !model) return <Loading what="the base models" />;
  return (
    <>
      <p>
        This server has no base model yet. A small one to begin with is <code>{model.id}</code> ({modelFacts(model)}).
      </p>
      <p>
        <Pull {...{ model, list, reload, done }} />
      </p>
      <p>
        <button type="button" class="small" onClick={done}>
          Check again
        </button>
      </p>
    </>
  );
}

const python = (model: string): string => `from openai import OpenAI

client = OpenAI(base_url="${location.origin}${ROOT}/v1", api_key="gt_live_...")
file = client.files.create(file=open("train.jsonl", "rb"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model="${model}",
    training_file=file.id,
    method={"type": "gft", "gft": {"grader": {
        "type": "math", "name": "answer",
        "input": "{{sample.output_text}}", "reference": "{{item.reference_answer}}"}}},
)`;
