// Lint of a training file: how many of its groups would train anything with the job's grader.
import { JOBS } from "../api";
import { percent, plural } from "../format";
import { useGet } from "../liveData";
import type { Job, JobLint, Lint } from "../types";

/** The lint report of a job's file; its lines link to their groups once the job has groups. */
export function JobLintSummary({ job, hasGroups = false }: { job: Job; hasGroups?: boolean }) {
  const { value } = useGet<JobLint>(`${JOBS}/${job.id}/lint`, job.status);
  const toLine = hasGroups ? (line: number) => `/ui/jobs/${job.id}/groups?row=${line}` : undefined;
  if (value?.report)
    return (
      <>
        <LintSummary lint={value.report} file={job.training_file} toLine={toLine} />
        {value.offer && (
          <p>
            <a class="button small" href={`/ui/new?from=${job.id}&demonstrations=graded`}>
              Train without the demonstrations that do not pass
            </a>
          </p>
        )}
      </>
    );
  return value?.status === "none" && hasGroups ? <p class="soft">The file was not linted. {value.reason}</p> : null;
}

/** Green only if the file itself has a training signal in most groups; red if there can be none. */
export function signalTone(lint: Lint): "good" | "hold" | "bad" {
  if (lint.signal_share_limit === 0) return "bad";
  const failed = lint.experts.graded - lint.experts.passed;
  return lint.signal_share > 0 && lint.signal_share_limit >= 0.5 && !failed && !lint.error_count ? "good" : "hold";
}

/** The share of groups that would train anything, and the demonstrations that fail the grader. */
export function LintSummary({
  lint,
  file,
  toLine,
  leaveOut,
  isLeftOut,
}: {
  lint: Lint;
  file: string;
  toLine?: ((line: number) => string) | undefined;
  /** Leaves the demonstrations out that do not pass; absent if the job does so. */
  leaveOut?: () => void;
  /** Whether the job leaves them out. */
  isLeftOut?: boolean;
}) {
  const { experts } = lint;
  const failed = experts.graded - experts.passed;
  const rejected = failed + experts.errors;
  const tone = signalTone(lint);
  // A job that trains demonstrations alone has no groups to compare.
  const isGrouped = lint.group.teacher + lint.group.self > 0;
  return (
    <div class={`notice ${tone}`} role="status">
      <b>
        {{ good: "✓", hold: "⚠", bad: "✕" }[tone]} {isGrouped ? "Training signal" : "Demonstrations"}:
      </b>{" "}
      {isGrouped &&
        (lint.signal_share > 0
          ? `the answers in the file differ in reward in ${percent(lint.signal_share)} of the groups`
          : "no group has answers in the file with different rewards")}
      {isGrouped &&
        (lint.group.self > 0
          ? `; with rollouts, in up to ${percent(lint.signal_share_limit)}.`
          : tone === "bad"
            ? ", and there are no rollouts: training would learn nothing."
            : ".")}
      {!isGrouped && !failed && `all ${plural(experts.graded, "demonstration")} pass the grader.`}
      {failed > 0 && ` ${failed} of ${plural(experts.graded, "demonstration")} fail the grader.`}
      {isLeftOut && rejected > 0 && " They are left out."}
      {leaveOut && rejected > 0 && experts.passed > 0 && (
        <>
          {" "}
          <button type="button" class="small" onClick={leaveOut}>
            Train without {rejected === 1 ? "it" : "them"}
          </button>
        </>
      )}
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
