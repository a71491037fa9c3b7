// One group: its prompt, where its answers lie on the line of rewards, and each of them with what it earned and how it pulls.
import { Meter, SourceChip } from "../components/primitives";
import { absolute, number, percent, plural, signed } from "../format";
import type { Group, Member, Provenance, Source } from "../types";

const SOURCES: Source[] = ["expert", "teacher", "self"];
/** Marks that have room beside each other on the line of rewards. */
const CLUSTERS = 50;
const MARK_PX = 18;
const SHAPES: Record<Source, string> = { expert: "◆", teacher: "■", self: "●" };

const mean = (values: number[]): number => values.reduce((sum, one) => sum + one, 0) / values.length;
const rewardsOf = (members: Member[]): number[] => members.flatMap((one) => (one.reward === null ? [] : [one.reward]));

/** Mean and sample standard deviation of the rewards; null for fewer than two. */
function spread(members: Member[]): { mean: number; std: number } | null {
  const rewards = rewardsOf(members);
  if (rewards.length < 2) return null;
  const middle = mean(rewards);
  return {
    mean: middle,
    std: Math.sqrt(rewards.reduce((sum, one) => sum + (one - middle) ** 2, 0) / (rewards.length - 1)),
  };
}

interface Card {
  group: Group;
  /** Name of the grader whose score is the reward itself. */
  total: string;
  withStep: boolean;
  source: string;
  byReward: boolean;
  /** Shows this line of the training file at all steps. */
  follow?: (() => void) | undefined;
}

export function GroupCard({ group, total, withStep, source, byReward, follow }: Card) {
  const whole = spread(group.members);
  const strongest = Math.max(1e-9, ...group.members.map((one) => Math.abs(one.advantage ?? 0)));
  const members = byReward
    ? [...group.members].sort((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity))
    : group.members;
  return (
    <article class="group" aria-label={`Group of line ${group.row} at step ${group.step}`} tabIndex={-1}>
      <header>
        <h3>
          {withStep && `Step ${group.step} · `}line {group.row}
        </h3>
        {whole && (
          <span class="soft">
            mean reward <b>{number(whole.mean)}</b> ±{" "}
            <b title="Standard deviation over the group">{number(whole.std)}</b>
          </span>
        )}
        {SOURCES.map((one) => {
          const rewards = rewardsOf(group.members.filter((member) => member.source === one));
          return (
            rewards.length > 0 && (
              <span key={one} class="soft">
                <SourceChip source={one} /> {number(mean(rewards))}
              </span>
            )
          );
        })}
        {group.zero_variance && (
          <span
            class="pill hold"
            title="No answer is better than another, so there is nothing to learn from this group."
          >
            <span aria-hidden="true">=</span> All rewards alike: trains nothing
          </span>
        )}
        {follow && (
          <button type="button" class="small" onClick={follow}>
            This line at every step
          </button>
        )}
      </header>
      <pre class="prompt" tabIndex={0} role="region" aria-label="Prompt">
        {group.prompt}
      </pre>
      {whole && whole.std > 0 && <RewardLine members={group.members} middle={whole.mean} />}
      <ol class="members">
        {members.map((member, index) => (
          <MemberCard key={index} {...{ member, strongest, total }} dim={source !== "" && member.source !== source} />
        ))}
      </ol>
    </article>
  );
}

/** Rewards closer together than `width` are one mark, with their number. */
function clusterRewards(rewards: number[], width: number): [reward: number, count: number][] {
  const found: [number, number][] = [];
  for (const reward of [...rewards].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && reward - last[0] < width) last[1] += 1;
    else found.push([reward, 1]);
  }
  return found;
}

/** Where the answers lie between the least and the greatest reward; what is right of the mean is pulled up. */
function RewardLine({ members, middle }: { members: Member[]; middle: number }) {
  const rewards = rewardsOf(members);
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const place = (reward: number) => `${((reward - low) / (high - low)) * 100}%`;
  const text = members.map((one) => `${one.source} ${number(one.reward)}`).join(", ");
  const near = (high - low) / CLUSTERS;
  const marks = SOURCES.flatMap((source) =>
    clusterRewards(rewardsOf(members.filter((one) => one.source === source)), near).map(([reward, count]) => ({
      source,
      reward,
      count,
    })),
  );
  return (
    <div class="reward-line" role="img" aria-label={`Rewards: ${text}; mean ${number(middle)}`}>
      <span class="soft">{number(low)}</span>
      <span class="line">
        <i class="mean" style={{ left: place(middle) }} title={`mean ${number(middle)}`} />
        {marks.map((mark) => {
          const { source, reward, count } = mark;
          // Several sources at one place stand side by side.
          const here = marks.filter((other) => Math.abs(other.reward - reward) <= near);
          const shift = (here.indexOf(mark) - (here.length - 1) / 2) * MARK_PX;
          return (
            <i
              key={`${source}${reward}`}
              class={`dot ${source}`}
              style={{ left: `calc(${place(reward)} + ${shift}px)` }}
              title={`${source}: ${number(reward)}`}
            >
              {SHAPES[source]}
              {count > 1 && <sup>{count}</sup>}
            </i>
          );
        })}
      </span>
      <span class="soft">{number(high)}</span>
    </div>
  );
}

function MemberCard({
  member,
  strongest,
  total,
  dim,
}: {
  member: Member;
  strongest: number;
  total: string;
  dim: boolean;
}) {
  return (
    <li class={`member ${dim ? "dim" : ""}`}>
      <header>
        <SourceChip source={member.source} />
        <span>
          reward <b>{number(member.reward)}</b>
        </span>
      </header>
      {member.advantage === null ? (
        <p class="problem">Left out of its group: {member.error ?? "it has no grade."}</p>
      ) : (
        <AdvantageBar advantage={member.advantage} strongest={strongest} />
      )}
      <pre tabIndex={0} role="region" aria-label={`Answer of ${member.source}`}>
        {member.text || "(empty)"}
      </pre>
      <Scores scores={Object.entries(member.scores ?? {}).filter(([name]) => name !== total)} />
      <footer class="soft">
        <span>{plural(member.tokens, "token")}</span>
        {!member.finished && <span title="It reached max_tokens before its end.">✂ cut off</span>}
        <span title="Mean probability that the model gives to its tokens">p {number(member.mean_p)}</span>
        <span title="Share of its tokens that are less probable than tau: their weight is bounded to their probability">
          <Meter share={member.rectified_frac ?? 0} label={`rectified ${percent(member.rectified_frac)}`} />{" "}
          {percent(member.rectified_frac)} rectified
        </span>
        {member.adapter_version !== null && (
          <span title="Optimiser steps that the adapter had seen when it wrote this">
            adapter {member.adapter_version}
          </span>
        )}
        {member.teacher && <TeacherOrigin of={member.teacher} />}
      </footer>
    </li>
  );
}

/** How hard and which way an answer pulls, against the strongest of its group. */
function AdvantageBar({ advantage, strongest }: { advantage: number; strongest: number }) {
  const width = (Math.abs(advantage) / strongest) * 50;
  const effect = advantage > 0 ? "made likelier" : advantage < 0 ? "made less likely" : "no effect";
  return (
    <div class="pull" title={effect}>
      <span class="axis" role="img" aria-label={`Advantage ${signed(advantage)}: ${effect}`}>
        <span
          class={advantage < 0 ? "down" : "up"}
          style={{ width: `${width}%`, left: advantage < 0 ? `${50 - width}%` : "50%" }}
        />
      </span>
      <b>
        {advantage > 0 ? "▲" : advantage < 0 ? "▼" : "="} {signed(advantage)}
      </b>
    </div>
  );
}

function Scores({ scores }: { scores: [string, number][] }) {
  if (!scores.length) return null;
  const areShares = scores.every(([, score]) => score >= 0 && score <= 1);
  return (
    <dl class="scores">
      {scores
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, score]) => (
          <>
            <dt title={name}>{name}</dt>
            <dd>
              {areShares && <Meter share={score} label={`${name} ${number(score)}`} />}
              <b>{number(score)}</b>
            </dd>
          </>
        ))}
    </dl>
  );
}

/** Who wrote a teacher's answer, and what it has cost. */
function TeacherOrigin({ of }: { of: Provenance }) {
  if (of.answered_at === null)
    return (
      <span title="The row of the training file brings it">
        {of.model ? `by ${of.model}, from the file` : "from the file"}
      </span>
    );
  const cost = `${plural(of.prompt_tokens ?? 0, "token")} read and ${of.completion_tokens ?? 0} written`;
  return (
    <span title={`Answered ${absolute(Date.parse(of.answered_at) / 1000)}; its share of the request: ${cost}`}>
      by {of.model} ({of.provider}){of.cached && ", known before"}
    </span>
  );
}
