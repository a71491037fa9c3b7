// Lint of a training file: how many of its groups would train anything with the job's grader.
import { JOBS } from "../api";
import { percent, plural } from "../format";
import { useGet } from "../liveData";
import type { Job, JobLint, Lint } from "../types";

/** The lint report of a job's file; its lines link to their groups once the job has groups. */
export function JobLintSummary({ job, hasGroups = false }: { job: Job; hasGroups?: boolean }) {
  const { value } = useGet<JobLint>(`${JOBS}/${job.id}/lint`, job.status);
  const toLine = hasGroups ? (line: number) => `/ui/jobs/${job.id}/groups?row=${line}` : undefined;
  if (value?.report) return <LintSummary lint={value.report} file={job.training_file} toLine={toLine} />;
  return value?.status === "none" && hasGroups ? <p class="soft">The file was not linted. {value.reason}</p> : null;
}

/** The share of groups that would train anything, and the demonstrations that fail the grader. */
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
      <b>{isGood ? "✓" : "⚠"} Training signal:</b> the answers in the file differ in reward in{" "}
      {percent(lint.signal_share)} of the groups
      {lint.group.self > 0 && <>; with rollouts, in up to {percent(lint.signal_share_limit)}</>}.
      {failed > 0 && ` ${failed} of ${experts.graded} demonstrations fail the grader.`}
      {lint.error_count + lint.warning_count > 0 && (
        <details>
          <summary>{plural(lint.error_count + lint.warning_count, "finding")}</summary>
          <ul>
            {[...lint.errors, ...lint.warnings].map((finding, index) => (
              <li key={index}>
                <a href={(finding.line !== null && toLine?.(finding.line)) || `/ui/files/${file}`}>
                  Line {finding.line}
                </a>
                : {finding.message}
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}
