// The checkpoints of a job and its trained model.
import { JOBS } from "../api";
import { DataTable } from "../components/DataTable";
import { CopyButton, EmptyState, ErrorNotice, Loading, RelativeTime } from "../components/primitives";
import { number } from "../format";
import { isFinal, useGet } from "../liveData";
import { baseOf, modelPage, playgroundPath } from "../modelNames";
import { useCan } from "../session";
import type { Checkpoint, Job, Page } from "../types";

export function CheckpointsTab({ job }: { job: Job }) {
  const { value, error, reload } = useGet<Page<Checkpoint>>(
    `${JOBS}/${job.id}/checkpoints?limit=100`,
    job.progress.step,
  );
  const asks = useCan("inference");
  const reads = useCan("models:read");
  if (error) return <ErrorNotice error={error} retry={reload} />;
  if (!value) return <Loading what="the checkpoints" />;
  return (
    <>
      {job.fine_tuned_model && (
        <p class="notice good">
          ✓ The trained model is{" "}
          <a href={modelPage(job.fine_tuned_model)}>
            <code>{job.fine_tuned_model}</code>
          </a>{" "}
          <CopyButton text={job.fine_tuned_model} />
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
          actions="Actions"
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
                  <a href={modelPage(checkpoint.fine_tuned_model_checkpoint)}>
                    <code>{checkpoint.fine_tuned_model_checkpoint}</code>
                  </a>{" "}
                  <CopyButton text={checkpoint.fine_tuned_model_checkpoint} />
                </td>
                <td>
                  {asks && (
                    <a
                      class="button small"
                      href={playgroundPath([baseOf(job), checkpoint.fine_tuned_model_checkpoint, job.fine_tuned_model])}
                      aria-label={`Open step ${checkpoint.step_number} in the playground`}
                    >
                      Playground
                    </a>
                  )}{" "}
                  {reads && (
                    <a
                      class="button small"
                      href={`${JOBS}/${job.id}/checkpoints/${checkpoint.id}/download`}
                      download
                      aria-label={`Download the adapter of step ${checkpoint.step_number}`}
                    >
                      Download
                    </a>
                  )}
                </td>
              </tr>
            );
          })}
        </DataTable>
      )}
    </>
  );
}

interface Download {
  model: string;
  small?: boolean;
  /** Whether another button next to it is the primary one. */
  isPlain?: boolean;
}

export function DownloadAdapter({ model, small = false, isPlain = small }: Download) {
  return (
    <a
      class={`button ${small ? "small" : ""} ${isPlain ? "" : "primary"}`}
      href={`/v1/models/${encodeURIComponent(model)}/download`}
      download
    >
      Download adapter
    </a>
  );
}
