// The inspector: who said what, what it earned, and how hard each answer pulls.
import { useLocation } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, JOBS, query } from "../api";
import { Bar, Chip, Empty, Failure, Loading } from "../components/Basics";
import { number, percent, plural, signed } from "../format";
import { useKeys } from "../keys";
import { isFinal } from "../live";
import type { Group, Groups, Job, Member } from "../types";

const PAGE = 20;
const ORDERS = [
  ["step", "in training order"],
  ["worst", "worst answer first"],
  ["best", "best answer first"],
  ["advantage", "strongest pull first"],
] as const;

export function GroupsTab({ job }: { job: Job }) {
  const { query: asked, route, path } = useLocation();
  const { step = "", sort = "step", source = "", scope = "step" } = asked as Record<string, string>;
  const [known, setKnown] = useState<{ steps: number[]; shown: number | null; groups: Group[]; after: string | null }>();
  const [error, setError] = useState<ApiError>();
  const follows = step === "" && scope === "step";
  const go = (changed: Record<string, string>) =>
    route(query(path, { step, sort: sort === "step" ? "" : sort, source, scope: scope === "step" ? "" : scope, ...changed }), true);

  const ask = (after: string | null) => {
    const where = scope === "all" ? { step_from: 0 } : { step };
    return get<Groups>(query(`${JOBS}/${job.id}/groups`, { ...where, sort, source, limit: PAGE, after }));
  };
  useEffect(() => {
    let current = true;
    ask(null).then(
      (found) => {
        if (!current) return;
        setError(undefined);
        setKnown({ steps: found.steps, shown: found.step, groups: found.data, after: found.has_more ? found.last_id : null });
      },
      (problem: ApiError) => current && setError(problem),
    );
    return () => {
      current = false;
    };
  }, [job.id, step, sort, source, scope, follows ? job.progress.step : 0]);
  const more = () => {
    if (!known?.after) return;
    ask(known.after).then(
      (found) =>
        setKnown({ ...known, groups: [...known.groups, ...found.data], after: found.has_more ? found.last_id : null }),
      setError,
    );
  };
  const at = known?.steps.indexOf(known.shown ?? -1) ?? -1;
  const to = (index: number) => {
    const next = known?.steps[index];
    if (next !== undefined) go({ step: String(next), scope: "" });
  };
  useKeys({ ArrowLeft: () => to(at - 1), ArrowRight: () => to(at + 1) });

  if (error && !known) return <Failure error={error} />;
  if (!known) return <Loading what="the groups" />;
  if (!known.steps.length) {
    return (
      <Empty title="No groups yet">
        <p>
          {isFinal(job)
            ? "This job recorded none: it ended before its first step."
            : "Groups appear with the first step: each prompt with all its answers, what they earned, and how strongly each one pulls."}
        </p>
      </Empty>
    );
  }
  return (
    <>
      <div class="row controls">
        <fieldset class="row" disabled={scope === "all"}>
          <legend class="hidden">Step</legend>
          <button type="button" aria-label="Previous step" disabled={at <= 0} onClick={() => to(at - 1)}>
            ◀
          </button>
          <label class="slider">
            <span>Step {known.shown ?? "–"}</span>
            <input
              type="range"
              aria-label="Step"
              aria-valuetext={`step ${known.shown}`}
              min="0"
              max={known.steps.length - 1}
              value={at}
              onInput={(event) => to(Number(event.currentTarget.value))}
            />
          </label>
          <button type="button" aria-label="Next step" disabled={at >= known.steps.length - 1} onClick={() => to(at + 1)}>
            ▶
          </button>
        </fieldset>
        {!isFinal(job) && (
          <button type="button" aria-pressed={follows} onClick={() => go({ step: "", scope: "" })}>
            {follows ? "● Following the latest step" : "Follow the latest step"}
          </button>
        )}
        <select aria-label="Which steps" value={scope} onChange={(event) => go({ scope: event.currentTarget.value === "all" ? "all" : "" })}>
          <option value="step">this step</option>
          <option value="all">all steps</option>
        </select>
        <select aria-label="Order" value={sort} onChange={(event) => go({ sort: event.currentTarget.value })}>
          {ORDERS.map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </select>
        <select aria-label="Source" value={source} onChange={(event) => go({ source: event.currentTarget.value })}>
          <option value="">all sources</option>
          <option value="expert">expert</option>
          <option value="teacher">teacher</option>
          <option value="self">self</option>
        </select>
      </div>
      {known.groups.map((group) => (
        <GroupCard key={group.id} group={group} withStep={scope === "all"} source={source} />
      ))}
      {!known.groups.length && <p class="soft">No group has a member of this source here.</p>}
      {known.after && (
        <button type="button" onClick={more}>
          Show more groups
        </button>
      )}
    </>
  );
}

function spread(members: Member[]): { mean: number; std: number } | null {
  const rewards = members.map((one) => one.reward).filter((one): one is number => one !== null);
  if (rewards.length < 2) return null;
  const mean = rewards.reduce((sum, one) => sum + one, 0) / rewards.length;
  const std = Math.sqrt(rewards.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (rewards.length - 1));
  return { mean, std };
}

function GroupCard({ group, withStep, source }: { group: Group; withStep: boolean; source: string }) {
  const whole = spread(group.members);
  const strongest = Math.max(1e-9, ...group.members.map((one) => Math.abs(one.advantage ?? 0)));
  const isDull = group.zero_variance;
  return (
    <article class="group" aria-label={`Group of row ${group.row}`}>
      <header>
        <h3>
          Row {group.row}
          {withStep && <small> at step {group.step}</small>}
        </h3>
        {whole && (
          <span class="soft">
            mean reward <b>{number(whole.mean)}</b>, spread <b>{number(whole.std)}</b>
          </span>
        )}
        {isDull && (
          <span class="pill hold" title="All rewards are alike, so no answer is better than another: this group trains nothing.">
            <span aria-hidden="true">=</span> No contrast: trains nothing
          </span>
        )}
      </header>
      <pre class="prompt" tabIndex={0} role="region" aria-label="Prompt">
        {group.prompt}
      </pre>
      <ol class="members">
        {group.members.map((member, index) => (
          <MemberCard key={index} member={member} strongest={strongest} dim={source !== "" && member.source !== source} />
        ))}
      </ol>
    </article>
  );
}

function MemberCard({ member, strongest, dim }: { member: Member; strongest: number; dim: boolean }) {
  const pull = member.advantage;
  return (
    <li class={`member ${dim ? "dim" : ""}`}>
      <header>
        <Chip source={member.source} />
        <span>
          reward <b>{number(member.reward)}</b>
        </span>
        {Object.entries(member.scores ?? {})
          .slice(0, -1)
          .map(([name, reward]) => (
            <span class="soft" key={name}>
              {name} {number(reward)}
            </span>
          ))}
        <span class="soft">
          {plural(member.tokens, "token")}
          {!member.finished && " · cut off"}
        </span>
      </header>
      {pull === null ? (
        <p class="problem">Left out of its group: {member.error ?? "it has no grade."}</p>
      ) : (
        <div class="pull">
          <span class="axis" role="img" aria-label={`Advantage ${signed(pull)}: ${pull > 0 ? "made likelier" : pull < 0 ? "made less likely" : "no effect"}`}>
            <span
              class={pull < 0 ? "down" : "up"}
              style={{
                width: `${(Math.abs(pull) / strongest) * 50}%`,
                left: pull < 0 ? `${50 - (Math.abs(pull) / strongest) * 50}%` : "50%",
              }}
            />
          </span>
          <b>
            {pull > 0 ? "▲" : pull < 0 ? "▼" : "="} {signed(pull)}
          </b>
        </div>
      )}
      <div class="meters">
        <span title="Share of tokens with p < tau, whose weight is bounded to p.">
          rectified <Bar share={member.rectified_frac ?? 0} label={`rectified ${percent(member.rectified_frac)}`} />{" "}
          {percent(member.rectified_frac)}
        </span>
        <span title="Mean probability that the model gave to its tokens.">
          mean p <b>{number(member.mean_p)}</b>
        </span>
      </div>
      <pre tabIndex={0} role="region" aria-label={`Answer of ${member.source}`}>
        {member.text || "(empty)"}
      </pre>
    </li>
  );
}
