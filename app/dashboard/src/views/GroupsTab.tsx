// Inspector of groups: each answer, its source, its reward and its advantage.

import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { EmptyState, ErrorNotice, Loading } from "../components/primitives";
import { isFinal, useGet } from "../liveData";
import type { JobMetrics } from "../metricTable";
import { baseOf, type PromptSource, playgroundPath } from "../modelNames";
import { useLocation } from "../root";
import { useCan } from "../session";
import { useShortcuts } from "../shortcuts";
import type { Group, Groups, Job, Source } from "../types";
import { GroupCard } from "./GroupCard";
import { JobLintSummary } from "./LintSummary";
import { Regrade } from "./Regrade";
import { RewardStrip } from "./RewardStrip";

const PAGE = 20;
const DRAG_MS = 60;
const ORDERS = [
  ["", "training order"],
  ["worst", "worst answer first"],
  ["best", "best answer first"],
  ["advantage", "strongest advantage first"],
] as const;

interface GroupsQuery {
  step: string;
  sort: string;
  source: string;
  scope: string;
  row: string;
}

/** Returns the name of the grader whose score is the reward. */
function totalOf(job: Job): string {
  const method = job.method as Record<string, unknown>;
  const settings = method[String(method.type)] as { grader?: { name?: string } } | undefined;
  return settings?.grader?.name ?? "";
}

export function GroupsTab({ job, metrics }: { job: Job; metrics: JobMetrics | undefined }) {
  const { query: address, route, path } = useLocation();
  const { step = "", sort = "", source = "", scope = "", row = "" } = address as Record<string, string>;
  const current: GroupsQuery = { step, sort, source, scope, row };
  const go = (changed: Partial<GroupsQuery>) => route(query(path, { ...current, ...changed }), true);
  const follows = !step && !scope && !row;
  const where = row ? { row, step_from: 0 } : scope ? { step_from: 0 } : { step };
  const wanted = query(`${JOBS}/${job.id}/groups`, { ...where, sort, source, limit: PAGE });
  const { value, error } = useGet<Groups>(wanted, follows || row ? job.progress.step : 0);
  const [later, setLater] = useState<{ of: Groups; groups: Group[]; after: string | null }>();
  const [problem, setProblem] = useState<ApiError>();
  const [isWhole, setWhole] = useState(false);
  const [byReward, setByReward] = useState(false);
  const asks = useCan("inference");
  useShortcuts({ j: () => toGroup(1), k: () => toGroup(-1) });

  if (error && !value) return <ErrorNotice error={error} />;
  if (!value) return <Loading what="the groups" />;
  if (!value.steps.length) return <NoGroups job={job} />;
  const more = later?.of === value ? later : undefined;
  const groups = [...value.data, ...(more?.groups ?? [])];
  const after = more ? more.after : value.has_more ? value.last_id : null;
  const load = () =>
    get<Groups>(`${wanted}&after=${after}`).then(
      (next) =>
        setLater({
          of: value,
          groups: [...(more?.groups ?? []), ...next.data],
          after: next.has_more ? next.last_id : null,
        }),
      setProblem,
    );
  return (
    <>
      {row ? (
        <p class="notice row">
          <span>Line {row} of the training file at every step that trained on it.</span>
          <button type="button" onClick={() => go({ row: "" })}>
            Back to all lines
          </button>
        </p>
      ) : (
        !scope && <Steps {...{ job, metrics, go, follows }} groups={value} />
      )}
      <div class="row controls">
        {!row && (
          <select aria-label="Which steps" value={scope} onChange={(event) => go({ scope: event.currentTarget.value })}>
            <option value="">this step</option>
            <option value="all">all steps</option>
          </select>
        )}
        <select aria-label="Order" value={sort} onChange={(event) => go({ sort: event.currentTarget.value })}>
          {ORDERS.map(([name, text]) => (
            <option key={name} value={name}>
              {text}
            </option>
          ))}
        </select>
        <select aria-label="Source" value={source} onChange={(event) => go({ source: event.currentTarget.value })}>
          <option value="">all sources</option>
          {sourcesOf(job).map((name) => (
            <option key={name} value={name}>
              {name.replace("_", "-")}
            </option>
          ))}
        </select>
        <button type="button" aria-pressed={byReward} onClick={() => setByReward(!byReward)}>
          Best answer first
        </button>
        <button type="button" aria-pressed={isWhole} onClick={() => setWhole(!isWhole)}>
          Full texts
        </button>
      </div>
      <Regrade job={job} step={scope || row ? undefined : (value.step ?? undefined)} />
      {problem && <ErrorNotice error={problem} />}
      <div class={isWhole ? "groups whole" : "groups"}>
        {groups.map((group) => (
          <GroupCard
            key={group.id}
            {...{ group, source, byReward }}
            total={totalOf(job)}
            withStep={Boolean(scope || row)}
            playground={asks ? playgroundPath([baseOf(job), job.fine_tuned_model], promptOf(job, group)) : undefined}
            follow={row ? undefined : () => go({ row: String(group.row), step: "", scope: "" })}
          />
        ))}
      </div>
      {!groups.length && <p class="soft">No group here has an answer from this source.</p>}
      {after && (
        <button type="button" onClick={() => void load()}>
          Show more groups
        </button>
      )}
    </>
  );
}

const promptOf = (job: Job, group: Group): PromptSource => ({ job: job.id, part: "training", row: group.row });

const sourcesOf = (job: Job): Source[] =>
  (job.method as { type: string }).type === "dpo" ? ["preferred", "non_preferred"] : ["expert", "teacher", "self"];

/** Moves the focus to the next or previous group. */
function toGroup(by: number): void {
  const all = [...document.querySelectorAll<HTMLElement>(".group")];
  const next =
    all[Math.min(all.length - 1, all.findIndex((group) => group.contains(document.activeElement)) + by)] ?? all[0];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "start" });
}

function Steps({
  job,
  metrics,
  groups,
  go,
  follows,
}: {
  job: Job;
  metrics: JobMetrics | undefined;
  groups: Groups;
  go: (changed: Partial<GroupsQuery>) => void;
  follows: boolean;
}) {
  const { steps, step: shown } = groups;
  // While dragged, the slider is ahead of the URL, and the URL is ahead of the loaded groups.
  const [dragged, setDragged] = useState<number>();
  const timer = useRef<ReturnType<typeof setTimeout>>();
  useEffect(() => setDragged(undefined), [shown]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const at = dragged ?? steps.indexOf(shown ?? -1);
  const to = (index: number) => {
    const next = steps[index];
    if (next === undefined) return;
    setDragged(index);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => go({ step: String(next) }), DRAG_MS);
  };
  const pick = (step: number) =>
    to(
      Math.max(
        0,
        steps.findLastIndex((other) => other <= Math.round(step)),
      ),
    );
  useShortcuts({ ArrowLeft: () => to(at - 1), ArrowRight: () => to(at + 1) });
  return (
    <section class="steps" aria-label="Steps">
      <RewardStrip {...{ job, metrics }} steps={steps} shown={steps[at] ?? 0} pick={pick} />
      <input
        type="range"
        aria-label="Step"
        aria-valuetext={`step ${steps[at]}`}
        min="0"
        max={steps.length - 1}
        value={at}
        onInput={(event) => to(Number(event.currentTarget.value))}
      />
      <div class="row">
        <button type="button" aria-label="Previous step" disabled={at <= 0} onClick={() => to(at - 1)}>
          ◀
        </button>
        <b class="now">Step {steps[at] ?? "–"}</b>
        <button type="button" aria-label="Next step" disabled={at >= steps.length - 1} onClick={() => to(at + 1)}>
          ▶
        </button>
        {!isFinal(job) && (
          <button type="button" aria-pressed={follows} onClick={() => go({ step: "", scope: "" })}>
            {follows ? "● Following the latest step" : "Follow the latest step"}
          </button>
        )}
      </div>
    </section>
  );
}

function NoGroups({ job }: { job: Job }) {
  return (
    <EmptyState title="No groups yet">
      <JobLintSummary job={job} />
      <p>
        {isFinal(job)
          ? "The job ended before its first step."
          : "Groups appear with the first step: each prompt with all its answers, their rewards and advantages."}
      </p>
    </EmptyState>
  );
}
