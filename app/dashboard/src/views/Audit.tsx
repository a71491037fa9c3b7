import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, query } from "../api";
import { Failure, Loading, Time, useTitle } from "../components/Basics";
import type { AuditEntry, Page } from "../types";

export function Audit() {
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
  if (error) return <Failure error={error} />;
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
              <th>Before → after</th>
            </tr>
          </thead>
          <tbody>
            {entries.map((one) => (
              <tr key={one.id}>
                <td>
                  <Time at={one.created_at} />
                </td>
                <td>{one.action}</td>
                <td class="cut">
                  <code>{one.object_id}</code>
                </td>
                <td>{one.actor.key_id ?? "the installation"}</td>
                <td>{one.actor.ip ?? "–"}</td>
                <td class="text">
                  <small>
                    {one.before ? JSON.stringify(one.before) : ""} {one.after ? `→ ${JSON.stringify(one.after)}` : ""}
                  </small>
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
