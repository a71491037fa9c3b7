import { JOBS } from "../api";
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
              ? "This job ended before its first one."
              : "A job writes one every few steps, and one whenever it is paused or its worker stops."}
          </p>
        </EmptyState>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Checkpoints">
          <table>
            <thead>
              <tr>
                <th>Step</th>
                <th>Written</th>
                <th>Held-out reward</th>
                <th>Held-out loss</th>
                <th>Reward</th>
                <th>Name</th>
              </tr>
            </thead>
            <tbody>
              {value.data.map((one) => {
                const metrics = one.metrics as Record<string, number | null>;
                return (
                  <tr key={one.id}>
                    <td>{one.step_number}</td>
                    <td>
                      <RelativeTime at={one.created_at} />
                    </td>
                    <td>{number(metrics["eval/reward"])}</td>
                    <td>{number(metrics["eval/loss"])}</td>
                    <td>{number(metrics.reward)}</td>
                    <td class="text">
                      <code title={one.fine_tuned_model_checkpoint}>{one.fine_tuned_model_checkpoint}</code>{" "}
                      <CopyButton text={one.fine_tuned_model_checkpoint} />
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
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
