import { useState } from "preact/hooks";
import { type ApiError, remove } from "../api";
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
  const [doomed, setDoomed] = useState<string>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("models:write");
  useTitle("Models");
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the models" />;
  const trained = value.data.filter((one) => one.base_model);
  const bases = value.data.filter((one) => !one.base_model);
  const named = (model: string) =>
    (aliases.value?.data ?? []).filter((one) => one.model === model).map((one) => one.id);
  return (
    <>
      <div class="title">
        <h1>Models</h1>
      </div>
      {failed && <ErrorNotice error={failed} />}
      <h2>Trained here</h2>
      {!trained.length ? (
        <EmptyState title="Nothing trained yet">
          <p>
            A job that succeeds puts its adapter here. <a href="/ui/new">Create one.</a>
          </p>
        </EmptyState>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Trained models">
          <table>
            <thead>
              <tr>
                <th>Model</th>
                <th>Trained on</th>
                <th>Job</th>
                <th>Age</th>
                <th>
                  <span class="hidden">Actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {trained.map((one) => (
                <tr key={one.id}>
                  <td class="text">
                    <code>{one.id}</code>{" "}
                    {named(one.id).map((alias) => (
                      <span class="pill good" key={alias} title="An alias of the project: jobs and gates can name it">
                        ★ {alias}
                      </span>
                    ))}
                  </td>
                  <td>{one.base_model}</td>
                  <td>
                    {one.job_id && <a href={`/ui/jobs/${one.job_id}`}>{one.step ? `step ${one.step}` : "open"}</a>}
                  </td>
                  <td>
                    <RelativeTime at={one.created} />
                  </td>
                  <td class="nowrap">
                    <DownloadAdapter model={one.id} small />{" "}
                    {writes && (
                      <button
                        type="button"
                        class="small"
                        onClick={() => setDoomed(one.id)}
                        aria-label={`Delete ${one.id}`}
                      >
                        Delete
                      </button>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <h2>Base models</h2>
      {!bases.length && (
        <p>
          None is here yet. On the server: <code>grouptune models pull smollm2-135m-instruct</code>
        </p>
      )}
      <ul class="plain">
        {bases.map((one) => (
          <li key={one.id}>
            <code>{one.id}</code> {one.aliases?.length ? <span class="soft">also {one.aliases.join(", ")}</span> : null}
          </li>
        ))}
      </ul>
      {doomed && (
        <ConfirmDialog
          title="Delete this model?"
          text={`${doomed} cannot be had again, except by training it again.`}
          action="Delete the model"
          act={() => void remove(`/v1/models/${encodeURIComponent(doomed)}`).then(reload, setFailed)}
          close={() => setDoomed(undefined)}
        />
      )}
    </>
  );
}
