// Who is asked for the teacher members that the file's rows do not bring, and whether there is a key for that server.
import { useState } from "preact/hooks";
import { type ApiError, post } from "../api";
import { TextField } from "../components/FormFields";
import { ErrorNotice } from "../components/primitives";
import { useGet } from "../liveData";
import type { Model, Page, TeacherKey } from "../types";
import type { TeacherForm } from "./jobForm";

const KEYS = "/v1/teacher_keys";

interface TeacherProps {
  value: TeacherForm;
  set: (value: TeacherForm) => void;
  bases: Model[];
  /** How many teacher answers a group has. */
  count: number;
}

export function TeacherField({ value, set, bases, count }: TeacherProps) {
  const change = (changed: Partial<TeacherForm>) => set({ ...value, ...changed });
  return (
    <details>
      <summary>Teacher: {value.model ? `asks ${value.model}` : "the file's own answers alone"}</summary>
      <p class="soft">
        Where a row brings fewer than {count} teacher answers, this model is asked for the rest: one of this server's
        base models, or one of any OpenAI-compatible server.
      </p>
      <div class="row wrap">
        <TextField
          label="Model"
          name="Teacher model"
          kind="text"
          list="teachers"
          value={value.model}
          placeholder="nobody"
          set={(model) => change({ model })}
        />
        <datalist id="teachers">
          {bases.map((one) => (
            <option key={one.id} value={one.id} />
          ))}
        </datalist>
        {value.model && (
          <>
            <TextField
              label="Address of its server"
              kind="url"
              value={value.base_url}
              placeholder="this server"
              set={(base_url) => change({ base_url })}
            />
            <TextField
              label="Temperature"
              name="Teacher temperature"
              value={value.temperature}
              placeholder="as the job's"
              set={(temperature) => change({ temperature })}
            />
            <TextField
              label="Tokens it may cost"
              value={value.tokens}
              placeholder="no limit"
              set={(tokens) => change({ tokens })}
            />
            <TextField
              label="Requests at most"
              value={value.requests}
              placeholder="no limit"
              set={(requests) => change({ requests })}
            />
          </>
        )}
      </div>
      {value.model && value.base_url && <TeacherKeyField base={value.base_url} />}
    </details>
  );
}

/** The address that a key belongs to; null while it is being typed. */
function originOf(base: string): string | null {
  const url = URL.canParse(base) ? new URL(base) : null;
  return url?.protocol.startsWith("http") ? url.origin : null;
}

function TeacherKeyField({ base }: { base: string }) {
  const keys = useGet<Page<TeacherKey>>(KEYS);
  const [text, setText] = useState("");
  const [error, setError] = useState<ApiError>();
  const origin = originOf(base);
  if (!keys.value || !origin) return null;
  const known = keys.value.data.find((one) => originOf(one.origin) === origin);
  const store = () => {
    setError(undefined);
    post(KEYS, { base_url: base, api_key: text }).then(() => {
      setText("");
      keys.reload();
    }, setError);
  };
  return (
    <>
      {known ? (
        <p class="soft">
          ✓ {origin} gets the project's key <code>{known.api_key_hint}</code>.
        </p>
      ) : (
        <div class="row">
          <label class="field">
            <span>The project's key for {origin}, if it wants one</span>
            <input
              type="password"
              autocomplete="off"
              value={text}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </label>
          <button type="button" disabled={!text} onClick={store}>
            Store the key
          </button>
        </div>
      )}
      {error && <ErrorNotice error={error} />}
    </>
  );
}
