// Settings of the teacher model that writes missing teacher answers, and the key for its server.
import { useState } from "preact/hooks";
import { type ApiError, post, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog } from "../components/Dialogs";
import { TextField } from "../components/FormFields";
import { ErrorNotice, RelativeTime } from "../components/primitives";
import { useGet } from "../liveData";
import type { Model, Page, TeacherKey } from "../types";
import type { TeacherForm } from "./jobForm";

const KEYS = "/v1/teacher_keys";

interface TeacherProps {
  value: TeacherForm;
  set: (value: TeacherForm) => void;
  bases: Model[];
  /** Number of teacher answers per group. */
  count: number;
}

export function TeacherField({ value, set, bases, count }: TeacherProps) {
  const change = (changed: Partial<TeacherForm>) => set({ ...value, ...changed });
  return (
    <details>
      <summary>Teacher: {value.model ? value.model : "answers from the file only"}</summary>
      <p class="soft">
        This model writes missing teacher answers: each row needs {count}. Use a base model of this server, or a model
        of any OpenAI-compatible server.
      </p>
      <div class="row wrap">
        <TextField
          label="Model"
          path="method.gft.teacher.model"
          name="Teacher model"
          kind="text"
          list="teachers"
          value={value.model}
          placeholder="none"
          set={(model) => change({ model })}
        />
        <datalist id="teachers">
          {bases.map(({ id }) => (
            <option key={id} value={id} />
          ))}
        </datalist>
        {value.model && (
          <>
            <TextField
              label="Server URL"
              path="method.gft.teacher.base_url"
              kind="url"
              value={value.base_url}
              placeholder="this server"
              set={(base_url) => change({ base_url })}
            />
            <TextField
              label="Temperature"
              path="method.gft.teacher.sampling.temperature"
              name="Teacher temperature"
              value={value.temperature}
              placeholder="same as the job"
              set={(temperature) => change({ temperature })}
            />
            <TextField
              label="Token budget"
              path="method.gft.teacher.budget.tokens"
              value={value.tokens}
              placeholder="no limit"
              set={(tokens) => change({ tokens })}
            />
            <TextField
              label="Request budget"
              path="method.gft.teacher.budget.requests"
              value={value.requests}
              placeholder="no limit"
              set={(requests) => change({ requests })}
            />
          </>
        )}
      </div>
      {value.model && <TeacherKeys base={value.base_url} />}
    </details>
  );
}

/** Returns the origin that a key belongs to; null for an incomplete URL. */
function originOf(base: string): string | null {
  const url = URL.canParse(base) ? new URL(base) : null;
  return url?.protocol.startsWith("http") ? url.origin : null;
}

/** The project's keys, and a field for the key of the server at `base`. */
function TeacherKeys({ base }: { base: string }) {
  const keys = useGet<Page<TeacherKey>>(KEYS);
  const [text, setText] = useState("");
  const [toDelete, setToDelete] = useState<TeacherKey>();
  const [error, setError] = useState<ApiError>();
  if (keys.error) return <ErrorNotice error={keys.error} retry={keys.reload} />;
  if (!keys.value) return null;
  const stored = keys.value.data;
  const origin = originOf(base);
  const isMissing = origin && !stored.some((key) => originOf(key.origin) === origin);
  const change = (request: Promise<unknown>) => {
    setError(undefined);
    request.then(() => {
      setText("");
      keys.reload();
    }, setError);
  };
  return (
    <>
      {isMissing && (
        <div class="row">
          <label class="field">
            <span>API key for {origin}, if it requires one</span>
            <input
              type="password"
              autocomplete="off"
              value={text}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </label>
          <button type="button" disabled={!text} onClick={() => change(post(KEYS, { base_url: base, api_key: text }))}>
            Store key
          </button>
        </div>
      )}
      {stored.length > 0 && (
        <DataTable label="Teacher keys of the project" columns={["Server", "Key", "Stored"]} actions="Actions">
          {stored.map((key) => (
            <tr key={key.id}>
              <td>
                {originOf(key.origin) === origin ? "✓ " : ""}
                {key.origin}
              </td>
              <td>
                <code>{key.api_key_hint}</code>
              </td>
              <td class="nowrap">
                <RelativeTime at={key.updated_at} />
              </td>
              <td>
                <button
                  type="button"
                  class="small"
                  aria-label={`Delete the key for ${key.origin}`}
                  onClick={() => setToDelete(key)}
                >
                  Delete
                </button>
              </td>
            </tr>
          ))}
        </DataTable>
      )}
      {error && <ErrorNotice error={error} />}
      {toDelete && (
        <ConfirmDialog
          title={`Delete the key for ${toDelete.origin}?`}
          text="Jobs with a teacher on this server run without a key from their next attempt on."
          action="Delete key"
          act={() => change(remove(`${KEYS}/${toDelete.id}`))}
          close={() => setToDelete(undefined)}
        />
      )}
    </>
  );
}
