// Lint of the job's file, and a form that grades the job's answers with another grader and compares the results.
import { useState } from "preact/hooks";
import { type ApiError, JOBS, post } from "../api";
import { ErrorNotice, SourceChip } from "../components/primitives";
import { number, percent, plural, signed } from "../format";
import { useGet } from "../liveData";
import { useCan } from "../session";
import type { FileReport, Job, Regraded, RegradedGroup } from "../types";
import { GraderField } from "./GraderField";
import { gradableFields } from "./graderTemplates";
import { JobLintSummary } from "./LintSummary";

const SHOWN = 10;
const MAX_GROUPS = 100;

/** `step` is the step to grade; undefined for all steps. */
export function Regrade({ job, step }: { job: Job; step: number | undefined }) {
  const [isOpen, setOpen] = useState(false);
  const writes = useCan("jobs:write");
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{writes ? "Lint of the file, and regrading with another grader" : "Lint of the file"}</summary>
      {isOpen && <JobLintSummary job={job} hasGroups />}
      {isOpen && writes && <RegradeForm job={job} step={step} />}
    </details>
  );
}

function RegradeForm({ job, step }: { job: Job; step: number | undefined }) {
  const method = job.method as Record<string, unknown>;
  const { grader } = method[String(method.type)] as { grader: unknown };
  const [text, setText] = useState(JSON.stringify(grader, null, 2));
  const [result, setResult] = useState<Regraded>();
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const report = useGet<FileReport>(`/v1/files/${job.training_file}/report`);
  const fields = gradableFields(report.value?.report);
  const { value, problem } = parse(text);
  const run = () => {
    setBusy(true);
    setError(undefined);
    const steps = step === undefined ? {} : { step_from: step, step_to: step };
    post<Regraded>(`${JOBS}/${job.id}/regrade`, { grader: value, limit: MAX_GROUPS, ...steps })
      .then(setResult, setError)
      .finally(() => setBusy(false));
  };
  return (
    <section class="panel regrade" aria-label="Regrade">
      <GraderField
        value={text}
        set={setText}
        file={job.training_file}
        fields={fields}
        problem={problem}
        path="grader"
      />
      <button type="button" class="primary" disabled={busy || problem !== undefined} onClick={run}>
        {busy ? "Grading …" : step === undefined ? `Regrade ${MAX_GROUPS} groups of all steps` : `Regrade step ${step}`}
      </button>
      <small> Nothing is stored; the job keeps its rewards.</small>
      {error && <ErrorNotice error={error} />}
      {result && <RegradeResult result={result} />}
    </section>
  );
}

function parse(text: string): { value: unknown; problem: string | undefined } {
  try {
    return { value: JSON.parse(text), problem: undefined };
  } catch (problem) {
    return { value: null, problem: `Invalid JSON: ${(problem as Error).message}` };
  }
}

function RegradeResult({ result }: { result: Regraded }) {
  const { summary } = result;
  const groups = [...result.data].sort((a, b) => shift(b) - shift(a)).slice(0, SHOWN);
  return (
    <>
      <div class="tiles" role="status">
        {Object.entries(summary.sources).map(([source, { before, after }]) => (
          <div class="tile" key={source}>
            <span>mean reward, {source}</span>
            <strong>{number(after)}</strong>
            <small>was {number(before)}</small>
          </div>
        ))}
        <div class="tile">
          <span>groups without contrast</span>
          <strong>{percent(summary.no_contrast_after)}</strong>
          <small>was {percent(summary.no_contrast_before)}</small>
        </div>
        <div class="tile">
          <span>advantages that change sign</span>
          <strong>{summary.changed_signs.toLocaleString("en-US")}</strong>
          <small>
            of {plural(summary.compared_advantages, "answer")} in {plural(summary.groups, "group")}
          </small>
        </div>
        <div class="tile">
          <span>rank correlation</span>
          <strong>{number(summary.rank_correlation)}</strong>
          <small>1: same order of answers</small>
        </div>
      </div>
      {summary.errors_after > 0 && (
        <p class="problem">
          ✕ The grader failed on {plural(summary.errors_after, "answer")}. {summary.error_samples[0]}
        </p>
      )}
      {result.ungraded_groups > 0 && (
        <p class="soft">{plural(result.ungraded_groups, "group")} could not be graded in time.</p>
      )}
      <div class="scroll fixed-first" tabIndex={0} role="region" aria-label="Comparison of grades">
        <table>
          <thead>
            <tr>
              <th>Answer</th>
              <th class="figure">Reward</th>
              <th class="figure">New reward</th>
              <th class="figure">Advantage</th>
              <th class="figure">New advantage</th>
            </tr>
          </thead>
          {groups.map((group) => (
            <GroupComparison key={group.id} group={group} />
          ))}
        </table>
      </div>
      {result.data.length > groups.length && <small>The {SHOWN} groups with the largest changes.</small>}
    </>
  );
}

/** Returns the total change of a group's advantages. */
const shift = (group: RegradedGroup): number =>
  group.members.reduce(
    (sum, member) => sum + Math.abs((member.advantage_after ?? 0) - (member.advantage_before ?? 0)),
    0,
  );

const advantage = (value: number | null): string => (value === null ? "–" : signed(value));

function GroupComparison({ group }: { group: RegradedGroup }) {
  return (
    <tbody>
      <tr>
        <th colSpan={5} scope="rowgroup">
          Step {group.step} · line {group.row}: {group.prompt.slice(0, 120)}
        </th>
      </tr>
      {group.members.map((member, index) => (
        <tr key={index}>
          <td class="text">
            <SourceChip source={member.source} /> {member.text.slice(0, 200)}
          </td>
          <td class="figure">{number(member.reward_before)}</td>
          <td class="figure">
            {member.error ? <span class="problem">✕ {member.error}</span> : <b>{number(member.reward_after)}</b>}
          </td>
          <td class="figure">{advantage(member.advantage_before)}</td>
          <td class="figure">
            <b>{advantage(member.advantage_after)}</b>
            {(member.advantage_before ?? 0) * (member.advantage_after ?? 0) < 0 && <span title="Changes sign"> ⇄</span>}
          </td>
        </tr>
      ))}
    </tbody>
  );
}
