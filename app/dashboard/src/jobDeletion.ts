// Deletion of finished jobs and of the models that they published.

import { type ApiError, JOBS, remove } from "./api";
import { plural } from "./format";
import { modelPath } from "./modelNames";
import type { Job } from "./types";

/** Deletes the model that the job published, unless it is deleted already, then the job. */
export async function deleteJob(job: Job): Promise<void> {
  if (job.fine_tuned_model) {
    await remove(modelPath(job.fine_tuned_model)).catch((error: ApiError) => {
      if (error.status !== 404) throw error;
    });
  }
  await remove(`${JOBS}/${job.id}`);
}

/** What the deletion of these jobs removes, for its confirmation. */
export function deletionText(jobs: Job[]): string {
  const models = jobs.filter((job) => job.fine_tuned_model).length;
  const also = models ? `, and ${plural(models, "published model")}` : "";
  return `This deletes checkpoints, metrics and groups${also}. It cannot be undone.`;
}
