import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, query } from "../api";
import { ErrorNotice, Loading, RelativeTime, useTitle } from "../components/primitives";
import type { AuditEntry, Page } from "../types";

export function AuditLog() {
  const [entries, setEntries] = useState<AuditEntry[]>();
  const [after, setAfter] = useState<string | null>(null);
  const [error, setError] = useState<ApiError>();
  useTitle("Audit log");
  const load = (behind: string | null) =>
    get<Page<AuditEntry>>(query("/v1/audit_log", { limit: 50, after: behind })).then((page) => {
      setEntries((old) => [...(behind ? (old ?? []) : []), ...page.data]);
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
      <div class="scroll" tabIndex={0} role="region" aria-label="Audit log">
        <table>
          <thead>
            <tr>
              <th>When</th>
              <th>What</th>
              <th>Object</th>
              <th>By key</th>
              <th>From</th>
              <th>What changed</th>
            </tr>
          </thead>
          <tbody>
            {entries.map((one) => (
              <tr key={one.id}>
                <td class="nowrap">
                  <RelativeTime at={one.created_at} />
                </td>
                <td>{one.action}</td>
                <td>
                  <AuditedObject id={one.object_id} />
                </td>
                <td class="nowrap">{one.actor.key_id ?? "the installation"}</td>
                <td>{one.actor.ip ?? "–"}</td>
                <td class="text">
                  <Changes before={one.before} after={one.after} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {after && (
        <button type="button" onClick={() => void load(after)}>
          Show older entries
        </button>
      )}
    </>
  );
}

const PAGES: Record<string, string> = { ftjob: "/ui/jobs/", file: "/ui/files/" };

/** The object, with a link where it has a page. */
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

/** Each field that is new, gone or different. */
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
