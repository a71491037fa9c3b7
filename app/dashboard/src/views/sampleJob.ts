// The sample job: the additions of `grouptune demo`, for a first run without own data.

import heldOut from "../../../../examples/arithmetic.heldout.jsonl?url";
import training from "../../../../examples/arithmetic.train.jsonl?url";
import { failure, get, JOBS, post, query } from "../api";
import type { FileObject, Job, Page } from "../types";
import { upload } from "../uploads";

/** The smallest model of the catalogue. */
export const SMALL_MODEL = "smollm2-135m-instruct";

interface SampleFile {
  name: string;
  url: string;
  sha256: string;
}

export const TRAINING: SampleFile = {
  name: "arithmetic.train.jsonl",
  url: training,
  sha256: "8c0113b1ff875ef1b05f17b41b2672d8f59e9d7d28b868f088a19da128678503",
};
export const HELD_OUT: SampleFile = {
  name: "arithmetic.heldout.jsonl",
  url: heldOut,
  sha256: "5c6e635524b843811a8d22065bcc6bae908f8f672f700301ba6c04e697bef543",
};

/** Settings with which SMALL_MODEL learns to add within minutes on a CPU. */
const METHOD = {
  type: "gft",
  gft: {
    grader: { type: "math", name: "answer", reference: "{{item.reference_answer}}", answer: "last_number" },
    group: { expert: 1, teacher: 3, self: 4 },
    sampling: { temperature: 0.7, max_tokens: 64 },
    hyperparameters: {
      batch_size: 8,
      max_steps: 14,
      learning_rate_multiplier: 60,
      lr_schedule: "cosine",
      eval_interval: 7,
      eval_samples: 100,
    },
  },
};

/** Uploads a sample file unless the project has it already; returns its id. */
async function ensureFile({ name, url, sha256 }: SampleFile): Promise<string> {
  const [known] = (await get<Page<FileObject>>(query("/v1/files", { purpose: "fine-tune", sha256, limit: 1 }))).data;
  if (known) return known.id;
  const content = await fetch(url);
  if (!content.ok) throw await failure(content);
  return (await upload(new File([await content.blob()], name), () => undefined)).file.id;
}

/** Creates the sample job; it starts when the server has validated the files. */
export async function createSampleJob(model: string): Promise<Job> {
  const [training_file, validation_file] = await Promise.all([ensureFile(TRAINING), ensureFile(HELD_OUT)]);
  return post<Job>(JOBS, { model, training_file, validation_file, suffix: "sample", method: METHOD });
}
