// Base models with their size, licence and context, and their downloads.
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, post } from "../api";
import { isPulling, useBaseModels } from "../baseModels";
import { DataTable } from "../components/DataTable";
import { TextField } from "../components/FormFields";
import { ErrorNotice, Loading, Meter } from "../components/primitives";
import { bytes, duration } from "../format";
import { modelPage } from "../modelNames";
import { useCan } from "../session";
import type { BaseModel, BaseModels as List, Model } from "../types";

/** "270 MB, licence apache-2.0, context of 8,192 tokens", with what is known. */
export function modelFacts({ bytes: size, licence, context_length }: BaseModel): string {
  return [
    size !== null && bytes(size),
    licence && `licence ${licence}`,
    context_length && `context of ${context_length.toLocaleString("en-US")} tokens`,
  ]
    .filter(Boolean)
    .join(", ");
}

interface PullProps {
  model: BaseModel;
  list: List;
  reload: () => void;
  /** Called when the download is complete. */
  done?: () => void;
}

/** Downloads a base model: a button, its progress, and the reason if this session or this server cannot. */
export function Pull({ model, list, reload, done }: PullProps) {
  const isAdmin = useCan("admin");
  const [problem, setProblem] = useState<ApiError>();
  const wasPulled = useRef(model.is_pulled);
  useEffect(() => {
    if (model.is_pulled && !wasPulled.current) done?.();
    wasPulled.current = model.is_pulled;
  }, [model.is_pulled]);
  if (model.is_pulled) return null;
  const send = (path: string, body?: unknown) => {
    setProblem(undefined);
    post(path, body).then(reload, setProblem);
  };
  if (isPulling(model))
    return (
      <>
        <PullProgress model={model} />{" "}
        {isAdmin && (
          <button
            type="button"
            class="small"
            aria-label={`Cancel the download of ${model.id}`}
            onClick={() => send(`/v1/base_models/${model.id}/cancel`)}
          >
            Cancel
          </button>
        )}
        {problem && <ErrorNotice error={problem} />}
      </>
    );
  return (
    <>
      {model.pull?.status === "succeeded" && (
        <p class="problem">
          A worker downloaded the model, but this server does not see it. Give both the same directory of base models
          (GROUPTUNE_MODELS_DIR).
        </p>
      )}
      {model.pull?.status === "failed" && <p class="problem">The download failed. {model.pull.error}</p>}
      {isAdmin && list.can_pull ? (
        <button
          type="button"
          class="small"
          aria-label={`Download ${model.id}`}
          onClick={() => send("/v1/base_models", { model: model.hub_id ?? model.id })}
        >
          Download
        </button>
      ) : (
        <CannotPull isAdmin={isAdmin} command={list.pull_command.replace("MODEL", model.id)} />
      )}
      {problem && <ErrorNotice error={problem} />}
    </>
  );
}

function CannotPull({ isAdmin, command }: { isAdmin: boolean; command: string }) {
  return (
    <span class="soft">
      {isAdmin
        ? "This installation cannot download now: no worker with the queue default runs."
        : "Your key cannot download base models: it lacks the scope admin."}{" "}
      Run <code>{command}</code> on the server.
    </span>
  );
}

function PullProgress({ model: { id, pull } }: { model: BaseModel }) {
  if (!pull) return null;
  const { done_bytes: done, total_bytes: total, eta_seconds: eta } = pull;
  const stage = pull.stage ?? "Waiting for a worker";
  return (
    <span class="pulling" role="status">
      {done !== null && total ? (
        <>
          <Meter share={done / total} label={`Download of ${id}`} />{" "}
          <span title={stage}>
            {bytes(done)} of {bytes(total)}
            {eta !== null && `, ${duration(eta)} left`}
          </span>
        </>
      ) : (
        <span>{done ? `${stage}: ${bytes(done)}` : `${stage} …`}</span>
      )}
    </span>
  );
}

/** All base models. `models` are the models of the API, which have the operator's aliases. */
export function BaseModels({ models, changed }: { models: Model[]; changed: () => void }) {
  const { value, error, reload } = useBaseModels();
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the base models" />;
  const aliases = new Map(models.map((model) => [model.id, model.aliases]));
  return (
    <>
      <DataTable label="Base models" columns={["Model", "Size", "Licence", "Context"]} actions="State">
        {value.data.map((model) => (
          <tr key={model.id}>
            <td>
              {model.is_pulled ? <a href={modelPage(model.id)}>{model.id}</a> : model.id}{" "}
              {!!aliases.get(model.id)?.length && (
                <span class="soft">aliases: {aliases.get(model.id)?.join(", ")}</span>
              )}
            </td>
            <td class="nowrap">{model.bytes === null ? "–" : bytes(model.bytes)}</td>
            <td>{model.licence ?? "–"}</td>
            <td class="nowrap">
              {model.context_length ? `${model.context_length.toLocaleString("en-US")} tokens` : "–"}
            </td>
            <td>
              {model.is_pulled ? (
                <span class="pill good">✓ Ready</span>
              ) : (
                <Pull {...{ model, reload, list: value }} done={changed} />
              )}
            </td>
          </tr>
        ))}
      </DataTable>
      <p class="soft">
        The first job that uses a model downloads it, too. To add a model of your own, put its directory with config,
        tokenizer and safetensors into the directory of base models on the server.
      </p>
      {value.can_pull && <PullFromHub reload={reload} />}
    </>
  );
}

/** Downloads any repository of the hub. */
function PullFromHub({ reload }: { reload: () => void }) {
  const isAdmin = useCan("admin");
  const [model, setModel] = useState("");
  const [problem, setProblem] = useState<ApiError>();
  if (!isAdmin) return null;
  const send = (event: Event) => {
    event.preventDefault();
    setProblem(undefined);
    post("/v1/base_models", { model: model.trim() }).then(() => {
      setModel("");
      reload();
    }, setProblem);
  };
  return (
    <form class="row" onSubmit={send}>
      <TextField
        label="Another model of the Hugging Face hub"
        kind="text"
        placeholder="owner/name"
        value={model}
        set={setModel}
      />
      <button type="submit" disabled={!model.trim()}>
        Download model
      </button>
      {problem && <ErrorNotice error={problem} />}
    </form>
  );
}
