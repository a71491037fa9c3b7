// The project's API keys.
import { useState } from "preact/hooks";
import { type ApiError, post, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog, FormDialog, SecretDialog } from "../components/Dialogs";
import { Field, TextField } from "../components/FormFields";
import { ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { useGet } from "../liveData";
import type { Key, NewKey, Page } from "../types";

const GRANTS: [string, string[] | undefined][] = [
  ["Full access to the project", undefined],
  ["Read only", ["files:read", "jobs:read", "models:read"]],
  ["Run jobs (CI)", ["files:*", "jobs:*", "models:read"]],
  ["Call models", ["models:read", "inference"]],
];

export function ApiKeys() {
  const { value, error, reload } = useGet<Page<Key>>("/v1/api_keys?limit=100");
  const [toRevoke, setToRevoke] = useState<Key>();
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
      <DataTable label="API keys" columns={["Name", "Key", "Scopes", "Status", "Last used", "Age"]} actions="Revoke">
        {value.data.map((key) => (
          <tr key={key.id}>
            <td>{key.name}</td>
            <td>
              <code>{key.redacted}</code>
            </td>
            <td class="text">{key.scopes.join(", ")}</td>
            <td>{key.status}</td>
            <td>
              <RelativeTime at={key.last_used_at} />
            </td>
            <td>
              <RelativeTime at={key.created_at} />
            </td>
            <td>
              {key.revoked_at === null && (
                <button type="button" class="small" aria-label={`Revoke ${key.name}`} onClick={() => setToRevoke(key)}>
                  Revoke
                </button>
              )}
            </td>
          </tr>
        ))}
      </DataTable>
      {isNew && (
        <CreateKeyDialog
          close={() => {
            setNew(false);
            reload();
          }}
        />
      )}
      {toRevoke && (
        <ConfirmDialog
          title={`Revoke ${toRevoke.name}?`}
          text="Requests with this key will fail, and browsers that signed in with it will be signed out."
          action="Revoke key"
          act={() => void remove(`/v1/api_keys/${toRevoke.id}`).then(reload, setFailed)}
          close={() => setToRevoke(undefined)}
        />
      )}
    </>
  );
}

function CreateKeyDialog({ close }: { close: () => void }) {
  const [name, setName] = useState("");
  const [grant, setGrant] = useState(0);
  const [created, setCreated] = useState<NewKey>();
  const [error, setError] = useState<ApiError>();
  const send = () => {
    const scopes = GRANTS[grant]?.[1];
    post<NewKey>("/v1/api_keys", { name, ...(scopes ? { scopes } : {}) }).then(setCreated, setError);
  };
  if (created) {
    return (
      <SecretDialog title="New API key" name={created.name} secret={created.key} close={close}>
        Use this key to sign in or to send requests.
      </SecretDialog>
    );
  }
  return (
    <FormDialog title="New API key" action="Create key" error={error} send={send} close={close}>
      <TextField
        label="Name"
        path="name"
        kind="text"
        isRequired
        maxLength={64}
        value={name}
        placeholder="nightly CI"
        set={setName}
      />
      <Field label="Permissions" id="permissions" path="scopes">
        {(described) => (
          <select
            id="permissions"
            value={grant}
            onChange={(event) => setGrant(Number(event.currentTarget.value))}
            {...described}
          >
            {GRANTS.map(([title], index) => (
              <option key={title} value={index}>
                {title}
              </option>
            ))}
          </select>
        )}
      </Field>
    </FormDialog>
  );
}
