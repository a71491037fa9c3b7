// The audit log: who changed what, newest entries first.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, query } from "../api";
import { DataTable } from "../components/DataTable";
import { ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import type { AuditEntry, Page } from "../types";

export function AuditLog() {
  const [entries, setEntries] = useState<AuditEntry[]>();
  const [after, setAfter] = useState<string | null>(null);
  const [error, setError] = useState<ApiError>();
  useTitle("Audit log");
  const load = (older: string | null) =>
    get<Page<AuditEntry>>(query("/v1/audit_log", { limit: 50, after: older })).then((page) => {
      setEntries((old) => [...(older ? (old ?? []) : []), ...page.data]);
      setAfter(page.has_more ? page.last_id : null);
    }, setError);
  useEffect(() => void load(null), []);
  if (error) return <ErrorNotice error={error} />;
  if (!entries) return <Loading what="the audit log" />;
  return (
    <>
      <div class="title">
        <h1>Audit log</h1>
      </div>
      <DataTable label="Audit log" columns={["Time", "Action", "Object", "Key", "Address", "Changes"]}>
        {entries.map((entry) => (
          <tr key={entry.id}>
            <td class="nowrap">
              <RelativeTime at={entry.created_at} />
            </td>
            <td>{entry.action}</td>
            <td>
              <AuditedObject id={entry.object_id} />
            </td>
            <td class="nowrap">{entry.actor.key_id ?? "the installation"}</td>
            <td>{entry.actor.ip ?? "–"}</td>
            <td class="text">
              <Changes before={entry.before} after={entry.after} />
            </td>
          </tr>
        ))}
      </DataTable>
      {after && (
        <button type="button" onClick={() => void load(after)}>
          Show older entries
        </button>
      )}
    </>
  );
}

const PAGES: Record<string, string> = { ftjob: "/ui/jobs/", file: "/ui/files/" };

/** The id of the changed object, linked if the object has a page. */
function AuditedObject({ id }: { id: string }) {
  const page = PAGES[id.split("-")[0] ?? ""];
  return page ? (
    <a href={page + id}>
      <code>{id}</code>
    </a>
  ) : (
    <code>{id}</code>
  );
}

type Snapshot = Record<string, unknown> | null | undefined;

const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** Each field that was added, removed or changed. */
function Changes({ before, after }: { before: Snapshot; after: Snapshot }) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const changed = names.filter((name) => shown(before?.[name] ?? null) !== shown(after?.[name] ?? null));
  return (
    <small>
      {changed.map((name) => (
        <div key={name}>
          {name} {before && <del>{shown(before[name])}</del>}
          {before && after && " → "}
          {after && <b>{shown(after[name])}</b>}
        </div>
      ))}
    </small>
  );
}
