// One group: its prompt, its rewards on a line, and each answer with its reward and advantage.
import { Meter, SourceChip } from "../components/primitives";
import { absolute, number, percent, plural, signed } from "../format";
import type { Group, Member, Provenance, Source } from "../types";

const SOURCES: Source[] = ["expert", "teacher", "self", "preferred", "non_preferred"];
/** Number of marks that fit next to each other on the line of rewards. */
const CLUSTERS = 50;
const MARK_PX = 18;
const SHAPES: Record<Source, string> = {
  expert: "◆",
  teacher: "■",
  self: "●",
  preferred: "▲",
  non_preferred: "▼",
};

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const rewardsOf = (members: Member[]): number[] => members.flatMap(({ reward }) => (reward === null ? [] : [reward]));

/** Returns the mean and sample standard deviation of the rewards; null for fewer than two. */
function spread(members: Member[]): { mean: number; std: number } | null {
  const rewards = rewardsOf(members);
  if (rewards.length < 2) return null;
  const middle = mean(rewards);
  return {
    mean: middle,
    std: Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - middle) ** 2, 0) / (rewards.length - 1)),
  };
}

interface Card {
  group: Group;
  /** Name of the grader whose score is the reward. */
  total: string;
  withStep: boolean;
  source: string;
  byReward: boolean;
  /** Shows this line of the training file at every step. */
  follow?: (() => void) | undefined;
  /** Address of the playground with this prompt; undefined if the key may not use it. */
  playground: string | undefined;
}

export function GroupCard({ group, total, withStep, source, byReward, follow, playground }: Card) {
  const whole = spread(group.members);
  const strongest = Math.max(1e-9, ...group.members.map((member) => Math.abs(member.advantage ?? 0)));
  const members = byReward
    ? [...group.members].sort((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity))
    : group.members;
  return (
    <article class="group" aria-label={`Group of line ${group.row} at step ${group.step}`} tabIndex={-1}>
      <header>
        <h2>
          {withStep && `Step ${group.step} · `}line {group.row}
        </h2>
        {whole && (
          <span class="soft">
            mean reward <b>{number(whole.mean)}</b> ±{" "}
            <b title="Standard deviation over the group">{number(whole.std)}</b>
          </span>
        )}
        {SOURCES.map((origin) => {
          const rewards = rewardsOf(group.members.filter((member) => member.source === origin));
          return (
            rewards.length > 0 && (
              <span key={origin} class="soft">
                <SourceChip source={origin} /> {number(mean(rewards))}
              </span>
            )
          );
        })}
        {group.zero_variance && (
          <span class="pill hold" title="No answer is better than another, so this group trains nothing.">
            <span aria-hidden="true">=</span> Equal rewards: trains nothing
          </span>
        )}
        <span class="row tools">
          {follow && (
            <button type="button" class="small" onClick={follow}>
              This line at every step
            </button>
          )}
          {playground && (
            <a class="button small" href={playground}>
              Open in playground
            </a>
          )}
        </span>
      </header>
      <pre class="prompt" tabIndex={0} role="region" aria-label={`Prompt of line ${group.row} at step ${group.step}`}>
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

/** Clusters rewards that are closer together than `width`; returns the first reward and the size of each cluster. */
function clusterRewards(rewards: number[], width: number): [reward: number, count: number][] {
  const clusters: [number, number][] = [];
  for (const reward of [...rewards].sort((a, b) => a - b)) {
    const last = clusters.at(-1);
    if (last && reward - last[0] < width) last[1] += 1;
    else clusters.push([reward, 1]);
  }
  return clusters;
}

/** The rewards of the answers on a line from lowest to highest. Answers right of the mean become more likely. */
function RewardLine({ members, middle }: { members: Member[]; middle: number }) {
  const rewards = rewardsOf(members);
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const place = (reward: number) => `${((reward - low) / (high - low)) * 100}%`;
  const text = members.map((member) => `${member.source} ${number(member.reward)}`).join(", ");
  const near = (high - low) / CLUSTERS;
  const marks = SOURCES.flatMap((source) =>
    clusterRewards(rewardsOf(members.filter((member) => member.source === source)), near).map(([reward, count]) => ({
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
          // Marks of several sources at the same reward are placed side by side.
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
        <p class="problem">Not in the group: {member.error ?? "it has no reward."}</p>
      ) : (
        <AdvantageBar advantage={member.advantage} strongest={strongest} />
      )}
      <pre tabIndex={0} role="region" aria-label={`Answer of ${member.source}`}>
        {member.text || "(empty)"}
      </pre>
      <Scores scores={Object.entries(member.scores ?? {}).filter(([name]) => name !== total)} />
      <footer class="soft">
        {member.turn && <span title="Number of the trained turn of the row">turn {member.turn}</span>}
        <span>{plural(member.tokens, "token")}</span>
        {!member.finished && <span title="It reached max_tokens before it was finished.">✂ cut off</span>}
        <span title="Mean probability of its tokens under the model">p {number(member.mean_p)}</span>
        <span title="Share of its tokens with a probability below tau; their weight is limited to their probability">
          <Meter share={member.rectified_frac ?? 0} label={`rectified ${percent(member.rectified_frac)}`} />{" "}
          {percent(member.rectified_frac)} rectified
        </span>
        {member.adapter_version !== null && (
          <span title="Number of optimizer steps of the adapter that sampled this answer">
            adapter {member.adapter_version}
          </span>
        )}
        {member.teacher && <TeacherOrigin of={member.teacher} />}
      </footer>
    </li>
  );
}

/** Direction and strength of an advantage, relative to the strongest one of the group. */
function AdvantageBar({ advantage, strongest }: { advantage: number; strongest: number }) {
  const width = (Math.abs(advantage) / strongest) * 50;
  const effect = advantage > 0 ? "made more likely" : advantage < 0 ? "made less likely" : "no effect";
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

/** The origin and cost of a teacher answer. */
function TeacherOrigin({ of }: { of: Provenance }) {
  if (of.answered_at === null)
    return (
      <span title="This answer is part of the row in the training file">
        {of.model ? `by ${of.model}, from the file` : "from the file"}
      </span>
    );
  const cost = `${plural(of.prompt_tokens ?? 0, "prompt token")} and ${plural(of.completion_tokens ?? 0, "completion token")}`;
  return (
    <span title={`Answered ${absolute(Date.parse(of.answered_at) / 1000)}; share of the request: ${cost}`}>
      by {of.model} ({of.provider}){of.cached && ", from the cache"}
    </span>
  );
}
