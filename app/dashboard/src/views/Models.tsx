// The trained models of the project and the installed base models.
import { useState } from "preact/hooks";
import { DataTable } from "../components/DataTable";
import { EmptyState, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { plural } from "../format";
import { useGet } from "../liveData";
import { isBase, modelPage, nameParts, playgroundPath } from "../modelNames";
import { useCan } from "../session";
import type { Model } from "../types";
import { BaseModels } from "./BaseModels";
import { DownloadAdapter } from "./CheckpointsTab";

/** With fewer models a search field is clutter. */
const SEARCHED = 8;

export function Models() {
  const { value, error, reload } = useGet<{ data: Model[] }>("/v1/models");
  const [text, setText] = useState("");
  const [hasCheckpoints, setCheckpoints] = useState(false);
  useTitle("Models");
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the models" />;
  const trained = value.data.filter((model) => !isBase(model));
  const checkpoints = trained.filter((model) => model.step !== null).length;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = trained.filter(
    (model) =>
      (hasCheckpoints || model.step === null) &&
      words.every((word) => [model.id, ...model.aliases].some((name) => name.toLowerCase().includes(word))),
  );
  return (
    <>
      <div class="title">
        <h1>Models</h1>
      </div>
      <h2>Trained models</h2>
      {!trained.length ? (
        <EmptyState title="No trained models yet">
          <p>
            When a job succeeds, its adapter appears here. <a href="/ui/new">Create a job.</a>
          </p>
        </EmptyState>
      ) : (
        <>
          <div class="filters" role="search">
            {trained.length >= SEARCHED && (
              <input
                type="search"
                aria-label="Search models by name or alias"
                placeholder="Search by name or alias"
                value={text}
                onInput={(event) => setText(event.currentTarget.value)}
              />
            )}
            {checkpoints > 0 && (
              <button type="button" aria-pressed={hasCheckpoints} onClick={() => setCheckpoints(!hasCheckpoints)}>
                {plural(checkpoints, "checkpoint")}
              </button>
            )}
            <span class="count" role="status">
              {plural(shown.length, "model")}
            </span>
          </div>
          <DataTable label="Trained models" columns={["Model", "Base model", "Job", "Age"]} actions="Actions">
            {shown.map((model) => (
              <TrainedRow key={model.id} model={model} />
            ))}
          </DataTable>
          {!shown.length && <p class="soft">No model matches. A checkpoint is shown only if its button is pressed.</p>}
        </>
      )}
      <h2>Base models</h2>
      <BaseModels models={value.data.filter(isBase)} changed={reload} />
    </>
  );
}

function TrainedRow({ model }: { model: Model }) {
  const asks = useCan("inference");
  const { title, detail } = nameParts(model.id);
  return (
    <tr>
      <td>
        <a href={modelPage(model.id)} title={model.id}>
          <b>{title}</b>
        </a>{" "}
        <span class="soft">{detail}</span> <Aliases names={model.aliases} />
      </td>
      <td>
        <a href={modelPage(model.base_model ?? "")}>{model.base_model}</a>
      </td>
      <td>
        <a href={`/ui/jobs/${model.job_id}`}>open</a>
      </td>
      <td class="nowrap">
        <RelativeTime at={model.created} />
      </td>
      <td class="nowrap">
        {asks && (
          <a
            class="button small"
            href={playgroundPath([model.base_model, model.id])}
            aria-label={`Open ${model.id} in the playground`}
          >
            Playground
          </a>
        )}{" "}
        <DownloadAdapter model={model.id} small />
      </td>
    </tr>
  );
}

export function Aliases({ names }: { names: string[] }) {
  return (
    <>
      {names.map((name) => (
        <span class="pill good" key={name} title="An alias: a name for this model that can be moved to another one">
          ★ {name}
        </span>
      ))}
    </>
  );
}
