// What the job's grader finds in the file, and what another one would have made of the answers: rewards and advantages as they are
// and as they would be.
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

/** The steps that are looked at; undefined for all of them. */
export function Regrade({ job, step }: { job: Job; step: number | undefined }) {
  const [isOpen, setOpen] = useState(false);
  const writes = useCan("jobs:write");
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {writes ? "What the file teaches, and another grader on these answers" : "What the file teaches"}
      </summary>
      {isOpen && <JobLintSummary job={job} hasGroups />}
      {isOpen && writes && <RegradeForm job={job} step={step} />}
    </details>
  );
}

function RegradeForm({ job, step }: { job: Job; step: number | undefined }) {
  const method = job.method as Record<string, unknown>;
  const { grader } = method[String(method.type)] as { grader: unknown };
  const [text, setText] = useState(JSON.stringify(grader, null, 2));
  const [found, setFound] = useState<Regraded>();
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
      .then(setFound, setError)
      .finally(() => setBusy(false));
  };
  return (
    <section class="panel regrade" aria-label="Another grader">
      <GraderField value={text} set={setText} file={job.training_file} fields={fields} problem={problem} />
      <button type="button" class="primary" disabled={busy || problem !== undefined} onClick={run}>
        {busy
          ? "Grading …"
          : step === undefined
            ? `Grade ${MAX_GROUPS} groups of all steps with it`
            : `Grade step ${step} with it`}
      </button>
      <small> Nothing is stored, and the job keeps its rewards.</small>
      {error && <ErrorNotice error={error} />}
      {found && <RegradeResult found={found} />}
    </section>
  );
}

function parse(text: string): { value: unknown; problem: string | undefined } {
  try {
    return { value: JSON.parse(text), problem: undefined };
  } catch (problem) {
    return { value: null, problem: `This is no JSON: ${(problem as Error).message}` };
  }
}

function RegradeResult({ found }: { found: Regraded }) {
  const { summary } = found;
  const groups = [...found.data].sort((a, b) => shift(b) - shift(a)).slice(0, SHOWN);
  return (
    <>
      <div class="tiles" role="status">
        {Object.entries(summary.sources).map(([source, { before, after }]) => (
          <div class="tile" key={source}>
            <span>reward of {source} answers</span>
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
          <span>advantages that change sides</span>
          <strong>{summary.changed_signs.toLocaleString("en-US")}</strong>
          <small>
            of {plural(summary.compared_advantages, "answer")} in {plural(summary.groups, "group")}
          </small>
        </div>
        <div class="tile">
          <span>rank correlation</span>
          <strong>{number(summary.rank_correlation)}</strong>
          <small>1: both order the answers alike</small>
        </div>
      </div>
      {summary.errors_after > 0 && (
        <p class="problem">
          ✕ It cannot grade {plural(summary.errors_after, "answer")}. {summary.error_samples[0]}
        </p>
      )}
      {found.ungraded_groups > 0 && (
        <p class="soft">{plural(found.ungraded_groups, "group")} were not graded in time.</p>
      )}
      <div class="scroll" tabIndex={0} role="region" aria-label="Both grades">
        <table>
          <thead>
            <tr>
              <th>Answer</th>
              <th class="figure">Reward</th>
              <th class="figure">would be</th>
              <th class="figure">Advantage</th>
              <th class="figure">would be</th>
            </tr>
          </thead>
          {groups.map((group) => (
            <GroupComparison key={group.id} group={group} />
          ))}
        </table>
      </div>
      {found.data.length > groups.length && <small>The {SHOWN} groups in which most changes.</small>}
    </>
  );
}

/** How far a group's advantages would move, in all. */
const shift = (group: RegradedGroup): number =>
  group.members.reduce((sum, one) => sum + Math.abs((one.advantage_after ?? 0) - (one.advantage_before ?? 0)), 0);

const advantage = (value: number | null): string => (value === null ? "–" : signed(value));

function GroupComparison({ group }: { group: RegradedGroup }) {
  return (
    <tbody>
      <tr>
        <th colSpan={5} scope="rowgroup">
          Step {group.step} · line {group.row}: {group.prompt.slice(0, 120)}
        </th>
      </tr>
      {group.members.map((one, index) => (
        <tr key={index}>
          <td class="text">
            <SourceChip source={one.source} /> {one.text.slice(0, 200)}
          </td>
          <td class="figure">{number(one.reward_before)}</td>
          <td class="figure">
            {one.error ? <span class="problem">✕ {one.error}</span> : <b>{number(one.reward_after)}</b>}
          </td>
          <td class="figure">{advantage(one.advantage_before)}</td>
          <td class="figure">
            <b>{advantage(one.advantage_after)}</b>
            {(one.advantage_before ?? 0) * (one.advantage_after ?? 0) < 0 && <span title="It changes sides"> ⇄</span>}
          </td>
        </tr>
      ))}
    </tbody>
  );
}
