// Actions on the jobs that are selected in the list.

import { useState } from "preact/hooks";
import { type ApiError, JOBS, post } from "../api";
import { ConfirmDialog } from "../components/Dialogs";
import { plural } from "../format";
import { deleteJob, deletionText } from "../jobDeletion";
import { isFinal } from "../liveData";
import { useCan } from "../session";
import type { Job } from "../types";

export const MAX_COMPARED = 8;

interface Props {
  jobs: Job[];
  clear: () => void;
  /** Requests the list again. */
  reload: () => void;
}

export function SelectedJobs({ jobs, clear, reload }: Props) {
  const writes = useCan("jobs:write");
  const [confirming, setConfirming] = useState<"cancel" | "delete">();
  const [isBusy, setBusy] = useState(false);
  const [failed, setFailed] = useState<string[]>([]);
  const [finished, unfinished] = [jobs.filter(isFinal), jobs.filter((job) => !isFinal(job))];
  /** Changes one job after the other, because the server limits the rate of requests. */
  const change = async (each: Job[], act: (job: Job) => Promise<unknown>) => {
    const problems = new Set<string>();
    setBusy(true);
    for (const job of each) await act(job).catch((error: ApiError) => problems.add(error.message));
    setBusy(false);
    setFailed([...problems]);
    clear();
    reload();
  };
  return (
    <>
      {failed.length > 0 && (
        <div class="notice bad" role="alert">
          {failed.map((message) => (
            <p key={message}>{message}</p>
          ))}
        </div>
      )}
      {jobs.length > 0 && (
        <div class="notice row" role="status">
          {plural(jobs.length, "job")} selected
          {jobs.length > 1 && jobs.length <= MAX_COMPARED && (
            <a class="button" href={`/ui/compare?ids=${jobs.map((job) => job.id).join(",")}`}>
              Compare
            </a>
          )}
          {writes && unfinished.length > 0 && (
            <button type="button" class="danger" disabled={isBusy} onClick={() => setConfirming("cancel")}>
              Cancel {plural(unfinished.length, "job")}
            </button>
          )}
          {writes && finished.length > 0 && (
            <button type="button" class="danger" disabled={isBusy} onClick={() => setConfirming("delete")}>
              Delete {plural(finished.length, "finished job")}
            </button>
          )}
          <button type="button" onClick={clear}>
            Clear
          </button>
        </div>
      )}
      {confirming === "cancel" && (
        <ConfirmDialog
          title={`Cancel ${plural(unfinished.length, "job")}?`}
          text="Their checkpoints remain. Cancelled jobs cannot be resumed."
          action="Cancel jobs"
          act={() => void change(unfinished, (job) => post(`${JOBS}/${job.id}/cancel`))}
          close={() => setConfirming(undefined)}
        />
      )}
      {confirming === "delete" && (
        <ConfirmDialog
          title={`Delete ${plural(finished.length, "finished job")}?`}
          text={deletionText(finished)}
          action="Delete jobs"
          act={() => void change(finished, deleteJob)}
          close={() => setConfirming(undefined)}
        />
      )}
    </>
  );
}
