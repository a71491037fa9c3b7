// The trained models of the project and the installed base models.
import { useState } from "preact/hooks";
import { type ApiError, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog } from "../components/Dialogs";
import { EmptyState, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { useGet } from "../liveData";
import { useCan } from "../session";
import type { Model } from "../types";
import { DownloadAdapter } from "./CheckpointsTab";

interface Alias {
  id: string;
  model: string;
}

export function Models() {
  const { value, error, reload } = useGet<{ data: Model[] }>("/v1/models");
  const aliases = useGet<{ data: Alias[] }>("/v1/model_aliases");
  const [toDelete, setToDelete] = useState<string>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("models:write");
  useTitle("Models");
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the models" />;
  const trained = value.data.filter((model) => model.base_model);
  const bases = value.data.filter((model) => !model.base_model);
  const aliasesOf = (id: string) =>
    (aliases.value?.data ?? []).filter((alias) => alias.model === id).map((alias) => alias.id);
  return (
    <>
      <div class="title">
        <h1>Models</h1>
      </div>
      {failed && <ErrorNotice error={failed} />}
      <h2>Trained models</h2>
      {!trained.length ? (
        <EmptyState title="No trained models yet">
          <p>
            When a job succeeds, its adapter appears here. <a href="/ui/new">Create a job.</a>
          </p>
        </EmptyState>
      ) : (
        <DataTable label="Trained models" columns={["Model", "Base model", "Job", "Age"]} actions="Actions">
          {trained.map((model) => (
            <tr key={model.id}>
              <td class="text">
                <code>{model.id}</code>{" "}
                {aliasesOf(model.id).map((alias) => (
                  <span class="pill good" key={alias} title="An alias: jobs and gates can use this name">
                    ★ {alias}
                  </span>
                ))}
              </td>
              <td>{model.base_model}</td>
              <td>
                {model.job_id && <a href={`/ui/jobs/${model.job_id}`}>{model.step ? `step ${model.step}` : "open"}</a>}
              </td>
              <td>
                <RelativeTime at={model.created} />
              </td>
              <td class="nowrap">
                <DownloadAdapter model={model.id} small />{" "}
                {writes && (
                  <button
                    type="button"
                    class="small"
                    onClick={() => setToDelete(model.id)}
                    aria-label={`Delete ${model.id}`}
                  >
                    Delete
                  </button>
                )}
              </td>
            </tr>
          ))}
        </DataTable>
      )}
      <h2>Base models</h2>
      {!bases.length && (
        <p>
          No base models yet. Run this on the server: <code>grouptune models pull smollm2-135m-instruct</code>
        </p>
      )}
      <ul class="plain">
        {bases.map((model) => (
          <li key={model.id}>
            <code>{model.id}</code>{" "}
            {model.aliases?.length ? <span class="soft">aliases: {model.aliases.join(", ")}</span> : null}
          </li>
        ))}
      </ul>
      {toDelete && (
        <ConfirmDialog
          title="Delete this model?"
          text={`${toDelete} will be removed. To get it back, you must train it again.`}
          action="Delete model"
          act={() => void remove(`/v1/models/${encodeURIComponent(toDelete)}`).then(reload, setFailed)}
          close={() => setToDelete(undefined)}
        />
      )}
    </>
  );
}
