// One model: how it was made, how good it is, its names, its exports, and code that uses it.
import { useContext, useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { type ApiError, remove } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { CodeBlock, CopyButton, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { bytes } from "../format";
import { useGet } from "../liveData";
import { modelPath, modelTitle, nameParts, playgroundPath } from "../modelNames";
import { modelSnippets } from "../modelSnippets";
import { ROOT, useLocation } from "../root";
import { SessionContext, useCan } from "../session";
import type { ModelDetails } from "../types";
import { DownloadAdapter } from "./CheckpointsTab";
import { HeldOutResults, heldOutResults } from "./HeldOutResults";
import { ModelAliases } from "./ModelAliases";
import { ModelExports } from "./ModelExports";
import { ModelLineage } from "./ModelLineage";
import { ModelSharing } from "./ModelSharing";

export function ModelPage() {
  const id = useRoute().params.id ?? "";
  return <ModelView key={id} id={id} />;
}

function ModelView({ id }: { id: string }) {
  const { value: model, error, reload } = useGet<ModelDetails>(modelPath(id));
  const [ollama, setOllama] = useState<string>();
  const project = useContext(SessionContext)?.project_id;
  useTitle(modelTitle(id));
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!model) return <Loading what="the model" />;
  const isTrained = Boolean(model.base_model);
  const isOwn = model.owned_by === project;
  return (
    <>
      <ModelHeader model={model} isOwn={isOwn} />
      <div class="halves">
        <div>
          {isTrained && <ModelLineage model={model} />}
          {model.lineage && <Results model={model} />}
          {isTrained && <ModelExports model={model.id} found={setOllama} />}
        </div>
        <div>
          <UseIt model={model} ollama={ollama} />
          {isOwn && <ModelAliases model={model} changed={reload} />}
          {isOwn && <ModelSharing model={model.id} />}
        </div>
      </div>
    </>
  );
}

function ModelHeader({ model, isOwn }: { model: ModelDetails; isOwn: boolean }) {
  const { route } = useLocation();
  const [writes, asks] = [useCan("models:write"), useCan("inference")];
  const [isConfirming, setConfirming] = useState(false);
  const [failed, setFailed] = useState<ApiError>();
  const { title, detail } = nameParts(model.id);
  const isNamed = model.aliases.length > 0;
  const source = model.lineage?.validation_file ? { job: model.job_id ?? "" } : undefined;
  return (
    <>
      <div class="title">
        <div>
          <p class="soft crumbs">
            <a href="/ui/models">Models</a> / {model.id} <CopyButton text={model.id} label="Copy id" />
          </p>
          <h1>{title}</h1>
        </div>
        <div class="row">
          {asks && (
            <a class="button primary" href={playgroundPath([model.base_model, model.id], source)}>
              Open in playground
            </a>
          )}
          {model.base_model && <DownloadAdapter model={model.id} isPlain />}
          {writes && isOwn && (
            <button
              type="button"
              class="danger"
              disabled={isNamed}
              title={isNamed ? "Move or remove its aliases first." : undefined}
              onClick={() => setConfirming(true)}
            >
              Delete
            </button>
          )}
        </div>
      </div>
      <div class="facts">
        <Kind model={model} isOwn={isOwn} />
        {detail && <code>{detail}</code>}
        {model.bytes && <span title="Size of the adapter's files">{bytes(model.bytes)}</span>}
        {model.rank && <span>rank {model.rank}</span>}
        {model.base?.context_length && (
          <span>context of {model.base.context_length.toLocaleString("en-US")} tokens</span>
        )}
        <span>
          created <RelativeTime at={model.created} />
        </span>
      </div>
      {failed && <ErrorNotice error={failed} />}
      {isConfirming && (
        <ConfirmDialog
          title="Delete this model?"
          text={`${model.id} will be removed, with its exports. To get it back, you must train it again.`}
          action="Delete model"
          act={() => void remove(modelPath(model.id)).then(() => route("/ui/models"), setFailed)}
          close={() => setConfirming(false)}
        />
      )}
    </>
  );
}

function Kind({ model, isOwn }: { model: ModelDetails; isOwn: boolean }) {
  if (!model.base_model) return <span class="pill run">Base model</span>;
  if (!isOwn) return <span class="pill hold">⇄ Shared by another project</span>;
  if (model.step !== null) return <span class="pill mute">◔ Checkpoint of step {model.step}</span>;
  return <span class="pill good">✓ Trained model</span>;
}

function Results({ model }: { model: ModelDetails }) {
  const evaluation = model.lineage?.evaluation;
  const results = heldOutResults(evaluation);
  return (
    <section aria-label="Evaluation">
      <h2>Evaluation</h2>
      {results.length > 0 ? (
        <HeldOutResults evaluation={evaluation} />
      ) : (
        <p class="soft">
          No held-out results: the job had no validation file, or this step was not evaluated. With a validation file, a
          job measures the model before and after training.
        </p>
      )}
    </section>
  );
}

function UseIt({ model, ollama }: { model: ModelDetails; ollama: string | undefined }) {
  const [chosen, setChosen] = useState(0);
  const snippets = modelSnippets(model, location.origin + ROOT, ollama);
  const snippet = snippets[chosen];
  return (
    <section aria-label="Use it">
      <h2>Use it</h2>
      <div class="row" role="group" aria-label="Language or engine">
        {snippets.map(({ title }, index) => (
          <button key={title} type="button" aria-pressed={chosen === index} onClick={() => setChosen(index)}>
            {title}
          </button>
        ))}
      </div>
      {snippet && <CodeBlock title={snippet.title} text={snippet.text} />}
    </section>
  );
}
