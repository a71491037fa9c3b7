// The aliases of a model: shown, added, moved from other models, removed.
import { useState } from "preact/hooks";
import { type ApiError, api, remove } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { Field } from "../components/FormFields";
import { ErrorNotice } from "../components/primitives";
import { plainMessage } from "../formProblems";
import { useGet } from "../liveData";
import { modelTitle } from "../modelNames";
import { useCan } from "../session";
import type { AliasObject, ModelDetails } from "../types";

const ALIASES = "/v1/model_aliases";

export function ModelAliases({ model, changed }: { model: ModelDetails; changed: () => void }) {
  const writes = useCan("models:write");
  const all = useGet<{ data: AliasObject[] }>(ALIASES);
  const [name, setName] = useState("");
  const [toMove, setToMove] = useState<AliasObject>();
  const [toRemove, setToRemove] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const done = () => {
    setName("");
    setError(undefined);
    all.reload();
    changed();
  };
  const move = (alias: string) =>
    api("PUT", `${ALIASES}/${encodeURIComponent(alias)}`, { model: model.id }).then(done, setError);
  const refused = error?.param === "alias" ? plainMessage(error.message, error.param) : undefined;
  const others = (all.value?.data ?? []).filter((alias) => alias.model !== model.id);
  const submit = (event: Event) => {
    event.preventDefault();
    const current = others.find((alias) => alias.id === name);
    if (current) setToMove(current);
    else void move(name);
  };
  return (
    <section aria-label="Aliases">
      <h2>Aliases</h2>
      <p class="soft">
        An alias is a name that requests, jobs and gates can use instead of the model's own, and that you can move to
        another model.
      </p>
      <ul class="plain row">
        {model.aliases.map((alias) => (
          <li key={alias} class="pill good">
            ★ {alias}
            {writes && (
              <button type="button" class="bare" aria-label={`Remove ${alias}`} onClick={() => setToRemove(alias)}>
                ✕
              </button>
            )}
          </li>
        ))}
        {!model.aliases.length && <li class="soft">None yet.</li>}
      </ul>
      {writes && (
        <form class="row" onSubmit={submit}>
          <Field label="New alias" id="alias" problem={refused}>
            {(described) => (
              <input
                id="alias"
                type="text"
                aria-label="Alias"
                placeholder="prod"
                list="other-aliases"
                required
                maxLength={64}
                value={name}
                onInput={(event) => setName(event.currentTarget.value.trim())}
                {...described}
              />
            )}
          </Field>
          <datalist id="other-aliases">
            {others.map((alias) => (
              <option key={alias.id} value={alias.id}>
                {modelTitle(alias.model)}
              </option>
            ))}
          </datalist>
          <button type="submit">{others.some((alias) => alias.id === name) ? "Move here" : "Add"}</button>
        </form>
      )}
      {error && !refused && <ErrorNotice error={error} />}
      {toMove && (
        <ConfirmDialog
          title={`Move ${toMove.id}?`}
          text={`${toMove.id} names ${toMove.model} now. New requests and jobs that use it will use this model.`}
          action="Move alias"
          act={() => void move(toMove.id)}
          close={() => setToMove(undefined)}
        />
      )}
      {toRemove && (
        <ConfirmDialog
          title={`Remove ${toRemove}?`}
          text="Requests and jobs that use this alias will fail until it names a model again."
          action="Remove alias"
          act={() => void remove(`${ALIASES}/${encodeURIComponent(toRemove)}`).then(done, setError)}
          close={() => setToRemove(undefined)}
        />
      )}
    </section>
  );
}
