// Webhook endpoints of the project and their deliveries.
import { useState } from "preact/hooks";
import { type ApiError, get, post, query, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ConfirmDialog, FormDialog, SecretDialog } from "../components/Dialogs";
import { TextField } from "../components/FormFields";
import { EmptyState, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import { plural } from "../format";
import { useGet, useProjectStream } from "../liveData";
import { useCan } from "../session";
import type { Delivery, Endpoint, NewEndpoint, Page } from "../types";

const ENDPOINTS = "/v1/webhook_endpoints";

export function Webhooks() {
  const { value, error, reload } = useGet<Page<Endpoint>>(`${ENDPOINTS}?limit=100`);
  const [isNew, setNew] = useState(false);
  const [version, setVersion] = useState(0);
  const writes = useCan("webhooks:write");
  useTitle("Webhooks");
  // Deliveries follow changes of jobs.
  useProjectStream(() => setVersion((old) => old + 1));
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the webhooks" />;
  return (
    <>
      <div class="title">
        <h1>Webhooks</h1>
        {writes && (
          <button type="button" class="primary" onClick={() => setNew(true)}>
            New webhook
          </button>
        )}
      </div>
      {!value.data.length && (
        <EmptyState title="No webhook endpoints yet">
          <p>
            Add an endpoint to get notified when a job starts, pauses or ends. Notifications are signed and retried
            until your server accepts them.
          </p>
        </EmptyState>
      )}
      {value.data.map((endpoint) => (
        <EndpointCard key={endpoint.id} endpoint={endpoint} version={version} writes={writes} changed={reload} />
      ))}
      {isNew && (
        <CreateWebhookDialog
          close={() => {
            setNew(false);
            reload();
          }}
        />
      )}
    </>
  );
}

const short = (event: string): string => event.replace("fine_tuning.job.", "");

interface EndpointProps {
  endpoint: Endpoint;
  /** Grows whenever there may be new deliveries. */
  version: number;
  writes: boolean;
  changed: () => void;
}

function EndpointCard({ endpoint, version, writes, changed }: EndpointProps) {
  const [testResult, setTestResult] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const [isConfirming, setConfirming] = useState(false);
  const path = `${ENDPOINTS}/${endpoint.id}`;
  const test = () => {
    setTestResult(undefined);
    setError(undefined);
    post<{ status_code: number }>(`${path}/test`, { event_type: endpoint.event_types[0] }).then(
      (answer) =>
        setTestResult(
          `The endpoint returned ${answer.status_code}${answer.status_code < 300 ? " ✓" : "; only 2xx counts as delivered"}.`,
        ),
      setError,
    );
  };
  return (
    <section class="group" aria-label={endpoint.name}>
      <header>
        <h2>{endpoint.name}</h2>
        {endpoint.disabled_at === null ? (
          <span class="pill good">✓ Active</span>
        ) : (
          <span class="pill bad" title="Update the endpoint to enable it again.">
            ✕ Disabled: it returned 410 Gone
          </span>
        )}
        <code>{endpoint.url}</code>
        {writes && (
          <span class="row tools">
            <button type="button" class="small" onClick={test}>
              Send a test
            </button>
            <button
              type="button"
              class="small"
              aria-label={`Delete ${endpoint.name}`}
              onClick={() => setConfirming(true)}
            >
              Delete
            </button>
          </span>
        )}
      </header>
      <p class="soft">
        events: {endpoint.event_types.map(short).join(", ")} · secret <code>{endpoint.signing_secret_hint}</code> ·
        created <RelativeTime at={endpoint.created_at} />
      </p>
      {testResult && (
        <p class="notice" role="status">
          {testResult}
        </p>
      )}
      {error && <ErrorNotice error={error} />}
      <Deliveries {...{ path, version, writes }} />
      {isConfirming && (
        <ConfirmDialog
          title={`Delete ${endpoint.name}?`}
          text="It gets no more notifications, and its deliveries are deleted."
          action="Delete webhook"
          act={() => void remove(path).then(changed, setError)}
          close={() => setConfirming(false)}
        />
      )}
    </section>
  );
}

const STATES: Record<string, { tone: string; text: string }> = {
  delivered: { tone: "good", text: "✓ delivered" },
  pending: { tone: "wait", text: "◔ pending" },
  parked: { tone: "bad", text: "✕ gave up" },
};

function Deliveries({ path, version, writes }: { path: string; version: number; writes: boolean }) {
  const { value, error, reload } = useGet<Page<Delivery>>(`${path}/deliveries?limit=20`, version);
  const [later, setLater] = useState<Delivery[]>([]);
  const [failed, setFailed] = useState<ApiError>();
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the deliveries" />;
  if (!value.data.length) return <p class="soft">No deliveries yet. Tests are not listed.</p>;
  const newestIds = new Set(value.data.map((delivery) => delivery.id));
  const all = [...value.data, ...later.filter((delivery) => !newestIds.has(delivery.id))];
  const more = () =>
    get<Page<Delivery>>(query(`${path}/deliveries`, { limit: 20, after: all.at(-1)?.id })).then(
      (page) => setLater([...later, ...page.data]),
      setFailed,
    );
  return (
    <>
      {failed && <ErrorNotice error={failed} />}
      <DataTable label="Deliveries" columns={["Event", "State", "Created", "Attempts"]} actions="Actions">
        {all.map((delivery) => (
          <tr key={delivery.id}>
            <td>
              {short(delivery.event_type)} {jobOf(delivery.payload)}
            </td>
            <td>
              <span class={`pill ${STATES[delivery.state]?.tone}`}>
                {STATES[delivery.state]?.text ?? delivery.state}
              </span>
            </td>
            <td class="nowrap">
              <RelativeTime at={delivery.created_at} />
            </td>
            <td>
              <DeliveryAttempts delivery={delivery} />
            </td>
            <td>
              {writes && delivery.state !== "pending" && (
                <button
                  type="button"
                  class="small"
                  onClick={() => void post(`${path}/deliveries/${delivery.id}/replay`).then(reload, setFailed)}
                >
                  Send again
                </button>
              )}
            </td>
          </tr>
        ))}
      </DataTable>
      {(later.length ? later.length % 20 === 0 : value.has_more) && (
        <button type="button" onClick={() => void more()}>
          Show older deliveries
        </button>
      )}
    </>
  );
}

function jobOf(payload: string) {
  const id = (JSON.parse(payload) as { data?: { id?: string } }).data?.id;
  return id ? <a href={`/ui/jobs/${id}`}>{id}</a> : null;
}

function DeliveryAttempts({ delivery }: { delivery: Delivery }) {
  const last = delivery.tries.at(-1);
  return (
    <details>
      <summary>
        {plural(delivery.tries.length, "attempt")}
        {last && ` · ${last.status_code ?? last.error}`}
      </summary>
      <ul class="plain">
        {delivery.tries.map((attempt) => (
          <li key={attempt.at}>
            <RelativeTime at={attempt.at} /> · {attempt.status_code ?? "no response"} · {attempt.seconds.toFixed(1)} s{" "}
            <code>{attempt.error ?? attempt.answer.slice(0, 200)}</code>
          </li>
        ))}
        {delivery.due_at !== null && (
          <li>
            next attempt: <RelativeTime at={delivery.due_at} />
          </li>
        )}
      </ul>
    </details>
  );
}

function CreateWebhookDialog({ close }: { close: () => void }) {
  const types = useGet<{ data: string[] }>("/v1/webhook_event_types");
  const [name, setName] = useState("");
  const [url, setUrl] = useState("https://");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(
    new Set(["succeeded", "failed", "cancelled"].map((status) => `fine_tuning.job.${status}`)),
  );
  const [created, setCreated] = useState<NewEndpoint>();
  const [error, setError] = useState<ApiError>();
  const toggle = (type: string) => {
    const next = new Set(chosen);
    if (!next.delete(type)) next.add(type);
    setChosen(next);
  };
  const send = () => {
    setError(undefined);
    post<NewEndpoint>(ENDPOINTS, { name, url, event_types: [...chosen] }).then(setCreated, setError);
  };
  if (created) {
    return (
      <SecretDialog title="Signing secret" name={created.name} secret={created.signing_secret} close={close}>
        Your server uses this secret to verify that a notification comes from here.
      </SecretDialog>
    );
  }
  return (
    <FormDialog
      title="New webhook"
      action="Create webhook"
      isDisabled={!chosen.size}
      error={error}
      send={send}
      close={close}
    >
      <TextField
        label="Name"
        path="name"
        kind="text"
        isRequired
        maxLength={128}
        value={name}
        placeholder="deployments"
        set={setName}
      />
      <TextField label="URL" path="url" kind="url" isRequired value={url} set={setUrl} />
      <fieldset>
        <legend>Events</legend>
        {(types.value?.data ?? [...chosen]).map((type) => (
          <label key={type} class="row">
            <input type="checkbox" checked={chosen.has(type)} onChange={() => toggle(type)} /> {short(type)}
          </label>
        ))}
      </fieldset>
    </FormDialog>
  );
}
