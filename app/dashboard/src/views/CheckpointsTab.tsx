// The checkpoints of a job and its trained model.
import { JOBS } from "../api";
import { DataTable } from "../components/DataTable";
import { CopyButton, EmptyState, ErrorNotice, Loading, RelativeTime } from "../components/primitives";
import { number } from "../format";
import { isFinal, useGet } from "../liveData";
import type { Checkpoint, Job, Page } from "../types";

export function CheckpointsTab({ job }: { job: Job }) {
  const { value, error, reload } = useGet<Page<Checkpoint>>(
    `${JOBS}/${job.id}/checkpoints?limit=100`,
    job.progress.step,
  );
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the checkpoints" />;
  return (
    <>
      {job.fine_tuned_model && (
        <p class="notice good">
          ✓ The trained model is <code>{job.fine_tuned_model}</code> <CopyButton text={job.fine_tuned_model} />
        </p>
      )}
      {!value.data.length ? (
        <EmptyState title="No checkpoints yet">
          <p>
            {isFinal(job)
              ? "The job ended before its first checkpoint."
              : "The trainer writes a checkpoint every few steps, and whenever the job is paused or its worker stops."}
          </p>
        </EmptyState>
      ) : (
        <DataTable
          label="Checkpoints"
          columns={["Step", "Written", "Held-out reward", "Held-out loss", "Reward", "Name"]}
        >
          {value.data.map((checkpoint) => {
            const metrics = checkpoint.metrics as Record<string, number | null>;
            return (
              <tr key={checkpoint.id}>
                <td>{checkpoint.step_number}</td>
                <td>
                  <RelativeTime at={checkpoint.created_at} />
                </td>
                <td>{number(metrics["eval/reward"])}</td>
                <td>{number(metrics["eval/loss"])}</td>
                <td>{number(metrics.reward)}</td>
                <td class="text">
                  <code title={checkpoint.fine_tuned_model_checkpoint}>{checkpoint.fine_tuned_model_checkpoint}</code>{" "}
                  <CopyButton text={checkpoint.fine_tuned_model_checkpoint} />
                </td>
              </tr>
            );
          })}
        </DataTable>
      )}
    </>
  );
}

export function DownloadAdapter({ model, small = false }: { model: string; small?: boolean }) {
  return (
    <a
      class={`button ${small ? "small" : "primary"}`}
      href={`/v1/models/${encodeURIComponent(model)}/download`}
      download
    >
      Download adapter
    </a>
  );
}
