// Who hears of the project's jobs, and what was sent to them.
import { useState } from "preact/hooks";
import { type ApiError, get, post, query, remove } from "../api";
import { ConfirmDialog, Dialog } from "../components/Dialogs";
import { CodeBlock, EmptyState, ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
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
  // What is sent follows what happens to jobs.
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
        <EmptyState title="Nobody hears of your jobs yet">
          <p>
            A webhook is an address of yours that is told when a job ends, starts or is paused: signed, and again and
            again until it answers. {writes && "Make one, then send it a test."}
          </p>
        </EmptyState>
      )}
      {value.data.map((one) => (
        <EndpointCard key={one.id} endpoint={one} version={version} writes={writes} changed={reload} />
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

interface OneProps {
  endpoint: Endpoint;
  /** Grows whenever something may have been sent. */
  version: number;
  writes: boolean;
  changed: () => void;
}

function EndpointCard({ endpoint, version, writes, changed }: OneProps) {
  const [said, setSaid] = useState<string>();
  const [error, setError] = useState<ApiError>();
  const [asking, setAsking] = useState(false);
  const path = `${ENDPOINTS}/${endpoint.id}`;
  const test = () => {
    setSaid(undefined);
    setError(undefined);
    post<{ status_code: number }>(`${path}/test`, { event_type: endpoint.event_types[0] }).then(
      (answer) =>
        setSaid(
          `It answered ${answer.status_code}${answer.status_code < 300 ? " ✓" : ": only 2xx counts as delivered"}.`,
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
          <span class="pill bad" title="An update of the endpoint makes it hear again.">
            ✕ Disabled: it answered 410 Gone
          </span>
        )}
        <code>{endpoint.url}</code>
        {writes && (
          <span class="row tools">
            <button type="button" class="small" onClick={test}>
              Send a test
            </button>
            <button type="button" class="small" aria-label={`Delete ${endpoint.name}`} onClick={() => setAsking(true)}>
              Delete
            </button>
          </span>
        )}
      </header>
      <p class="soft">
        hears of {endpoint.event_types.map(short).join(", ")} · secret <code>{endpoint.signing_secret_hint}</code> ·
        made <RelativeTime at={endpoint.created_at} />
      </p>
      {said && (
        <p class="notice" role="status">
          {said}
        </p>
      )}
      {error && <ErrorNotice error={error} />}
      <Deliveries {...{ path, version, writes }} />
      {asking && (
        <ConfirmDialog
          title={`Delete ${endpoint.name}?`}
          text="It hears nothing more, and what was sent to it is forgotten."
          action="Delete the webhook"
          act={() => void remove(path).then(changed, setError)}
          close={() => setAsking(false)}
        />
      )}
    </section>
  );
}

const STATES: Record<string, { tone: string; text: string }> = {
  delivered: { tone: "good", text: "✓ delivered" },
  pending: { tone: "wait", text: "◔ to be sent" },
  parked: { tone: "bad", text: "✕ given up" },
};

function Deliveries({ path, version, writes }: { path: string; version: number; writes: boolean }) {
  const { value, error, reload } = useGet<Page<Delivery>>(`${path}/deliveries?limit=20`, version);
  const [later, setLater] = useState<Delivery[]>([]);
  const [failed, setFailed] = useState<ApiError>();
  if (error && !value) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the deliveries" />;
  if (!value.data.length) return <p class="soft">Nothing was sent yet. Tests are not listed.</p>;
  const known = new Set(value.data.map((one) => one.id));
  const all = [...value.data, ...later.filter((one) => !known.has(one.id))];
  const more = () =>
    get<Page<Delivery>>(query(`${path}/deliveries`, { limit: 20, after: all.at(-1)?.id })).then(
      (page) => setLater([...later, ...page.data]),
      setFailed,
    );
  return (
    <>
      {failed && <ErrorNotice error={failed} />}
      <div class="scroll" tabIndex={0} role="region" aria-label="Deliveries">
        <table>
          <thead>
            <tr>
              <th>Event</th>
              <th>State</th>
              <th>Written</th>
              <th>Tries</th>
              <th>
                <span class="hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {all.map((one) => (
              <tr key={one.id}>
                <td>
                  {short(one.event_type)} {jobOf(one.payload)}
                </td>
                <td>
                  <span class={`pill ${STATES[one.state]?.tone}`}>{STATES[one.state]?.text ?? one.state}</span>
                </td>
                <td class="nowrap">
                  <RelativeTime at={one.created_at} />
                </td>
                <td>
                  <DeliveryAttempts delivery={one} />
                </td>
                <td>
                  {writes && one.state !== "pending" && (
                    <button
                      type="button"
                      class="small"
                      onClick={() => void post(`${path}/deliveries/${one.id}/replay`).then(reload, setFailed)}
                    >
                      Send again
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
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
        {plural(delivery.tries.length, "try").replace("trys", "tries")}
        {last && ` · ${last.status_code ?? last.error}`}
      </summary>
      <ul class="plain">
        {delivery.tries.map((one) => (
          <li key={one.at}>
            <RelativeTime at={one.at} /> · {one.status_code ?? "no answer"} · {one.seconds.toFixed(1)} s{" "}
            <code>{one.error ?? one.answer.slice(0, 200)}</code>
          </li>
        ))}
        {delivery.due_at !== null && (
          <li>
            next try: <RelativeTime at={delivery.due_at} />
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
    new Set(["succeeded", "failed", "cancelled"].map((one) => `fine_tuning.job.${one}`)),
  );
  const [made, setMade] = useState<NewEndpoint>();
  const [error, setError] = useState<ApiError>();
  const toggle = (type: string) => {
    const next = new Set(chosen);
    if (!next.delete(type)) next.add(type);
    setChosen(next);
  };
  const send = (event: Event) => {
    event.preventDefault();
    setError(undefined);
    post<NewEndpoint>(ENDPOINTS, { name, url, event_types: [...chosen] }).then(setMade, setError);
  };
  if (made) {
    return (
      <Dialog title="The signing secret" close={close}>
        <h2>The signing secret</h2>
        <p>Your server checks with it that a message is from here. It is shown this once.</p>
        <CodeBlock title={made.name} text={made.signing_secret} />
        <div class="row end">
          <button type="button" class="primary" onClick={close}>
            I have kept it
          </button>
        </div>
      </Dialog>
    );
  }
  return (
    <Dialog title="New webhook" close={close}>
      <h2>New webhook</h2>
      <form class="form" onSubmit={send}>
        <label class="field">
          <span>Name</span>
          <input
            type="text"
            required
            maxLength={128}
            value={name}
            placeholder="deployments"
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <label class="field">
          <span>Address</span>
          <input type="text" required value={url} onInput={(event) => setUrl(event.currentTarget.value)} />
        </label>
        <fieldset>
          <legend>It hears of</legend>
          {(types.value?.data ?? [...chosen]).map((type) => (
            <label key={type} class="row">
              <input type="checkbox" checked={chosen.has(type)} onChange={() => toggle(type)} /> {short(type)}
            </label>
          ))}
        </fieldset>
        {error && <ErrorNotice error={error} />}
        <div class="row end">
          <button type="button" onClick={close}>
            Close
          </button>
          <button type="submit" class="primary" disabled={!chosen.size}>
            Create the webhook
          </button>
        </div>
      </form>
    </Dialog>
  );
}
