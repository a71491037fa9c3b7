// The exports of a model: created, followed, downloaded, cancelled and deleted.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, post, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog, FormDialog } from "../components/Dialogs";
import { ErrorNotice, Meter, RelativeTime } from "../components/primitives";
import { FORMATS } from "../exportFormats";
import { bytes, number, percent, plural } from "../format";
import { useGet } from "../liveData";
import { modelPath } from "../modelNames";
import { useCan } from "../session";
import type { ExportFormat, ModelExport, Page, Quantization } from "../types";

const POLL_MS = 1000;

const isActive = ({ status }: ModelExport): boolean => status === "queued" || status === "running";

/** The newest exports of a model, requested again while one is unfinished. */
function useExports(model: string) {
  const exports = useGet<Page<ModelExport>>(`${modelPath(model)}/exports?limit=20`);
  const active = (exports.value?.data ?? []).some(isActive);
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(exports.reload, POLL_MS);
    return () => clearInterval(timer);
  }, [active]);
  return exports;
}

interface Props {
  model: string;
  /** Receives the id of a finished export for Ollama. */
  found: (ollama: string | undefined) => void;
}

export function ModelExports({ model, found }: Props) {
  const { value, error, reload } = useExports(model);
  const [isNew, setNew] = useState(false);
  const [toDelete, setToDelete] = useState<ModelExport>();
  const [failed, setFailed] = useState<ApiError>();
  const writes = useCan("models:write");
  const exports = value?.data ?? [];
  const ollama = exports.find(({ format, status }) => format === "ollama" && status === "succeeded")?.id;
  useEffect(() => found(ollama), [ollama]);
  return (
    <section aria-label="Exports">
      <div class="row between">
        <h2>Exports</h2>
        {writes && (
          <button type="button" class="small" onClick={() => setNew(true)}>
            New export
          </button>
        )}
      </div>
      {error && <ErrorNotice error={error} retry={reload} />}
      {failed && <ErrorNotice error={failed} />}
      {value && !exports.length && (
        <p class="soft">
          None yet. An export is the model in a form for another program: merged into its base, as GGUF, or for Ollama.
          It is compared with this model before you can download it.
        </p>
      )}
      {exports.length > 0 && (
        <DataTable label="Exports" columns={["Format", "Status", "Size", "Age"]} actions="Actions">
          {exports.map((one) => (
            <ExportRow
              key={one.id}
              {...{ one, writes }}
              cancel={() => void post(`/v1/exports/${one.id}/cancel`).then(reload, setFailed)}
              remove={() => setToDelete(one)}
            />
          ))}
        </DataTable>
      )}
      {isNew && (
        <NewExport
          model={model}
          close={() => {
            setNew(false);
            reload();
          }}
        />
      )}
      {toDelete && (
        <ConfirmDialog
          title="Delete this export?"
          text="Its archive will be removed. You can create it again as long as the model exists."
          action="Delete export"
          act={() => void remove(`/v1/exports/${toDelete.id}`).then(reload, setFailed)}
          close={() => setToDelete(undefined)}
        />
      )}
    </section>
  );
}

interface RowProps {
  one: ModelExport;
  writes: boolean;
  cancel: () => void;
  remove: () => void;
}

function ExportRow({ one, writes, cancel, remove }: RowProps) {
  const name = `${FORMATS[one.format].title}${one.quantization ? ` ${one.quantization}` : ""}`;
  return (
    <tr>
      <td>
        <b>{FORMATS[one.format].title}</b> {one.quantization && <code>{one.quantization}</code>}
      </td>
      <td>
        <ExportStatus one={one} />
      </td>
      <td class="nowrap">{one.bytes === null ? "–" : bytes(one.bytes)}</td>
      <td class="nowrap">
        <RelativeTime at={one.created_at} />
      </td>
      <td class="nowrap">
        {one.status === "succeeded" && one.bytes !== null && (
          <a class="button small" href={`/v1/exports/${one.id}/content`} download aria-label={`Download ${name}`}>
            Download
          </a>
        )}{" "}
        {writes &&
          (isActive(one) ? (
            <button type="button" class="small" aria-label={`Cancel ${name}`} onClick={cancel}>
              Cancel
            </button>
          ) : (
            <button type="button" class="small" aria-label={`Delete ${name}`} onClick={remove}>
              Delete
            </button>
          ))}
      </td>
    </tr>
  );
}

function ExportStatus({ one }: { one: ModelExport }) {
  if (one.status === "queued") return <span class="pill wait">◔ Queued</span>;
  if (one.status === "running")
    return (
      <div class="progress">
        <span>
          {one.stage ?? "Starting"} · {percent(one.progress)}
        </span>
        <Meter share={one.progress} label={`Export ${percent(one.progress)}`} />
      </div>
    );
  if (one.status === "failed")
    return (
      <>
        <span class="pill bad">✕ Failed</span> <small>{one.error?.message}</small>
      </>
    );
  if (one.status === "cancelled") return <span class="pill mute">⊘ Cancelled</span>;
  return <Checked one={one} />;
}

/** The result of the comparison with the unmerged model, and the notes on what differs. */
function Checked({ one }: { one: ModelExport }) {
  const { check, repository, notes = [] } = one.manifest ?? {};
  return (
    <>
      <span class="pill good">✓ {repository ? "Pushed" : "Checked"}</span>{" "}
      {repository && <a href={repository.url}>{repository.url.split("/").slice(-2).join("/")}</a>}{" "}
      {check && (
        <small title={`${check.compared}: ${check.unit}, over ${plural(check.probes, "prompt")}`}>
          difference {number(check.difference)}, allowed {number(check.tolerance)}
        </small>
      )}
      {notes.length > 0 && (
        <details class="notes">
          <summary>{plural(notes.length, "note")}</summary>
          <ul>
            {notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function NewExport({ model, close }: { model: string; close: () => void }) {
  const [format, setFormat] = useState<ExportFormat>("merged");
  const [quantization, setQuantization] = useState<Quantization>();
  const [push, setPush] = useState({ repository: "", hub_token: "", private: true, merged: false });
  const [error, setError] = useState<ApiError>();
  const { quantizations } = FORMATS[format];
  const send = () =>
    post(`${modelPath(model)}/exports`, {
      format,
      ...(quantizations ? { quantization: quantization ?? quantizations[0] } : {}),
      ...(format === "push" ? { ...push, hub_token: push.hub_token || null } : {}),
    }).then(close, setError);
  return (
    <FormDialog title="New export" action="Create export" error={error} send={() => void send()} close={close}>
      <fieldset class="choices">
        <legend>Format</legend>
        {(Object.keys(FORMATS) as ExportFormat[]).map((name) => (
          <label key={name} class={name === format ? "chosen" : ""}>
            <input type="radio" name="format" checked={name === format} onChange={() => setFormat(name)} />
            <span>
              <b>{FORMATS[name].title}</b> <span class="soft">{FORMATS[name].text}</span>
            </span>
          </label>
        ))}
      </fieldset>
      {quantizations && (
        <label class="field">
          <span>Number format of the weights</span>
          <select
            value={quantization ?? quantizations[0]}
            onChange={(event) => setQuantization(event.currentTarget.value as Quantization)}
          >
            {quantizations.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      )}
      {format === "push" && <PushFields push={push} set={(changed) => setPush({ ...push, ...changed })} />}
    </FormDialog>
  );
}

interface Push {
  repository: string;
  hub_token: string;
  private: boolean;
  merged: boolean;
}

function PushFields({ push, set }: { push: Push; set: (changed: Partial<Push>) => void }) {
  return (
    <>
      <label class="field">
        <span>Repository</span>
        <input
          type="text"
          required
          placeholder="owner/name"
          value={push.repository}
          onInput={(event) => set({ repository: event.currentTarget.value.trim() })}
        />
      </label>
      <label class="field">
        <span>Token of the hub</span>
        <input
          type="password"
          autocomplete="off"
          placeholder="the server's own token"
          value={push.hub_token}
          onInput={(event) => set({ hub_token: event.currentTarget.value.trim() })}
        />
      </label>
      <label class="row">
        <input
          type="checkbox"
          checked={push.merged}
          onChange={(event) => set({ merged: event.currentTarget.checked })}
        />
        Push the merged model in place of the adapter
      </label>
      <label class="row">
        <input
          type="checkbox"
          checked={!push.private}
          onChange={(event) => set({ private: !event.currentTarget.checked })}
        />
        Public: everyone can download it
      </label>
    </>
  );
}
