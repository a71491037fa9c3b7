// The state of a data file: ready, without answers, or with errors.

import { StatusBadge } from "../components/primitives";
import type { FileObject } from "../types";

/** The status of a file; a valid file without answers is not shown as ready. */
export function FileBadge({ file }: { file: FileObject }) {
  return <StatusBadge value={file.status === "processed" && file.has_answers === false ? "unanswered" : file.status} />;
}

/** Says what a file without answers can train; links to its page if `id` is given. */
export function NoAnswers({ id }: { id?: string }) {
  return (
    <p class="notice hold" role="status">
      <b>⚠ No row has an answer to learn from.</b> Supervised and DFT training cannot use this file. Reinforcement and
      group fine-tuning can: with rollouts that a grader scores, or with a teacher that writes the answers.
      {id && (
        <>
          {" "}
          <a href={`/ui/files/${id}`}>See the file's report.</a>
        </>
      )}
    </p>
  );
}
