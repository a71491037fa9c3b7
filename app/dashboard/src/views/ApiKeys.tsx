import { useState } from "preact/hooks";
import { type ApiError, post, remove } from "../api";
import { ConfirmDialog, Dialog } from "../components/Dialogs";
import { CodeBlock, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { useGet } from "../liveData";
import type { Key, NewKey, Page } from "../types";

const GRANTS: [string, string[] | undefined][] = [
  ["All of its project", undefined],
  ["Read only", ["files:read", "jobs:read", "models:read"]],
  ["Run jobs (CI)", ["files:*", "jobs:*", "models:read"]],
];

export function ApiKeys() {
  const { value, error, reload } = useGet<Page<Key>>("/v1/api_keys?limit=100");
  const [doomed, setDoomed] = useState<Key>();
  const [isNew, setNew] = useState(false);
  const [failed, setFailed] = useState<ApiError>();
  useTitle("API keys");
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the keys" />;
  return (
    <>
      <div class="title">
        <h1>API keys</h1>
        <button type="button" class="primary" onClick={() => setNew(true)}>
          New key
        </button>
      </div>
      {failed && <ErrorNotice error={failed} />}
      <div class="scroll" tabIndex={0} role="region" aria-label="API keys">
        <table>
          <thead>
            <tr>
              <th>Name</th>
              <th>Key</th>
              <th>May</th>
              <th>State</th>
              <th>Last used</th>
              <th>Age</th>
              <th>
                <span class="hidden">Revoke</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {value.data.map((one) => (
              <tr key={one.id}>
                <td>{one.name}</td>
                <td>
                  <code>{one.redacted}</code>
                </td>
                <td class="text">{one.scopes.join(", ")}</td>
                <td>{one.status}</td>
                <td>
                  <RelativeTime at={one.last_used_at} />
                </td>
                <td>
                  <RelativeTime at={one.created_at} />
                </td>
                <td>
                  {one.revoked_at === null && (
                    <button
                      type="button"
                      class="small"
                      aria-label={`Revoke ${one.name}`}
                      onClick={() => setDoomed(one)}
                    >
                      Revoke
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {isNew && (
        <CreateKeyDialog
          close={() => {
            setNew(false);
            reload();
          }}
        />
      )}
      {doomed && (
        <ConfirmDialog
          title={`Revoke ${doomed.name}?`}
          text="Whatever uses this key is refused from now on, and browsers that signed in with it are signed out."
          action="Revoke the key"
          act={() => void remove(`/v1/api_keys/${doomed.id}`).then(reload, setFailed)}
          close={() => setDoomed(undefined)}
        />
      )}
    </>
  );
}

function CreateKeyDialog({ close }: { close: () => void }) {
  const [name, setName] = useState("");
  const [grant, setGrant] = useState(0);
  const [made, setMade] = useState<NewKey>();
  const [error, setError] = useState<ApiError>();
  const send = (event: Event) => {
    event.preventDefault();
    const scopes = GRANTS[grant]?.[1];
    post<NewKey>("/v1/api_keys", { name, ...(scopes ? { scopes } : {}) }).then(setMade, setError);
  };
  return (
    <Dialog title="New API key" close={close}>
      <h2>New API key</h2>
      {made ? (
        <>
          <p>Copy it now: it is shown only this once.</p>
          <CodeBlock title={made.name} text={made.key} />
          <div class="row end">
            <button type="button" class="primary" onClick={close}>
              Done
            </button>
          </div>
        </>
      ) : (
        <form class="form" onSubmit={send}>
          <label class="field">
            <span>What it is for</span>
            <input
              type="text"
              required
              maxLength={64}
              value={name}
              placeholder="nightly CI"
              onInput={(event) => setName(event.currentTarget.value)}
            />
          </label>
          <label class="field">
            <span>What it may do</span>
            <select value={grant} onChange={(event) => setGrant(Number(event.currentTarget.value))}>
              {GRANTS.map(([title], index) => (
                <option key={title} value={index}>
                  {title}
                </option>
              ))}
            </select>
          </label>
          {error && <ErrorNotice error={error} />}
          <div class="row end">
            <button type="button" onClick={close}>
              Close
            </button>
            <button type="submit" class="primary">
              Create the key
            </button>
          </div>
        </form>
      )}
    </Dialog>
  );
}
