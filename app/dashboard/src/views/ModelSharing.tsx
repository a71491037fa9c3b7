// The projects that may use a model of this project.
import { useState } from "preact/hooks";
import { type ApiError, post, remove } from "../api";
import { DataTable } from "../components/DataTable";
import { ErrorNotice, RelativeTime } from "../components/primitives";
import { useGet } from "../liveData";
import { useCan } from "../session";
import type { Page, Permission } from "../types";

export function ModelSharing({ model }: { model: string }) {
  const writes = useCan("models:write");
  const path = `/v1/fine_tuning/checkpoints/${encodeURIComponent(model)}/permissions`;
  const { value, reload } = useGet<Page<Permission>>(`${path}?limit=100`);
  const [project, setProject] = useState("");
  const [error, setError] = useState<ApiError>();
  const done = () => {
    setProject("");
    setError(undefined);
    reload();
  };
  const share = (event: Event) => {
    event.preventDefault();
    post(path, { project_ids: [project] }).then(done, setError);
  };
  const granted = value?.data ?? [];
  if (!writes && !granted.length) return null;
  return (
    <details open={granted.length > 0}>
      <summary>Share with other projects{granted.length > 0 && ` (${granted.length})`}</summary>
      <p class="soft">Another project can ask it, download it and train from it. It cannot change or delete it.</p>
      {granted.length > 0 && (
        <DataTable label="Permissions" columns={["Project", "Since"]} actions="Revoke">
          {granted.map((permission) => (
            <tr key={permission.id}>
              <td class="text">
                <code>{permission.project_id}</code>
              </td>
              <td>
                <RelativeTime at={permission.created_at} />
              </td>
              <td>
                {writes && (
                  <button
                    type="button"
                    class="small"
                    aria-label={`Revoke ${permission.project_id}`}
                    onClick={() => void remove(`${path}/${permission.id}`).then(done, setError)}
                  >
                    Revoke
                  </button>
                )}
              </td>
            </tr>
          ))}
        </DataTable>
      )}
      {writes && (
        <form class="row" onSubmit={share}>
          <input
            type="text"
            aria-label="Id of the project"
            placeholder="proj_…"
            required
            maxLength={64}
            value={project}
            onInput={(event) => setProject(event.currentTarget.value.trim())}
          />
          <button type="submit">Share</button>
        </form>
      )}
      {error && <ErrorNotice error={error} />}
    </details>
  );
}
