// What a training file would teach in groups, by the job's own grader.
import { JOBS } from "../api";
import { percent, plural } from "../format";
import { useGet } from "../liveData";
import type { Job, JobLint, Lint } from "../types";

/** What was found in the file of a job; its lines lead to their groups, once there are some. */
export function JobLintSummary({ job, hasGroups = false }: { job: Job; hasGroups?: boolean }) {
  const { value } = useGet<JobLint>(`${JOBS}/${job.id}/lint`, job.status);
  const toLine = hasGroups ? (line: number) => `/ui/jobs/${job.id}/groups?row=${line}` : undefined;
  if (value?.report) return <LintSummary lint={value.report} file={job.training_file} toLine={toLine} />;
  return value?.status === "none" && hasGroups ? (
    <p class="soft">The file was not looked through. {value.reason}</p>
  ) : null;
}

/** How much of a file teaches something in groups, and who fails the grader. */
export function LintSummary({
  lint,
  file,
  toLine,
}: {
  lint: Lint;
  file: string;
  toLine?: ((line: number) => string) | undefined;
}) {
  const { experts } = lint;
  const failed = experts.graded - experts.passed;
  const isGood = lint.signal_share_limit >= 0.5 && !failed && !lint.error_count;
  return (
    <div class={`notice ${isGood ? "" : "hold"}`} role="status">
      <b>{isGood ? "✓" : "⚠"} What the file teaches:</b> in {percent(lint.signal_share)} of the groups the known answers
      differ in reward
      {lint.group.self > 0 && <>, in up to {percent(lint.signal_share_limit)} with the model's own</>}.
      {failed > 0 && ` ${failed} of ${experts.graded} demonstrations fail their own grader.`}
      {lint.error_count + lint.warning_count > 0 && (
        <details>
          <summary>{plural(lint.error_count + lint.warning_count, "line")} to look at</summary>
          <ul>
            {[...lint.errors, ...lint.warnings].map((one, index) => (
              <li key={index}>
                <a href={(one.line !== null && toLine?.(one.line)) || `/ui/files/${file}`}>Line {one.line}</a>:{" "}
                {one.message}
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}
