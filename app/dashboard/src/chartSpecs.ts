// Which charts a job has: titles, labels and colours, by metric name.

export interface ChartSpec {
  title: string;
  hint: string;
  /** Unit of the values; empty for plain numbers. */
  unit: string;
  /** Whether the values lie between 0 and 1. */
  isShare: boolean;
  names: string[];
}

type Rule = { title: string; hint: string; unit?: string; isShare?: boolean; names: (string | RegExp)[] };

const SOURCES = "expert|teacher|self|preferred|non_preferred";
const OF_SOURCE = new RegExp(`^gft/(${SOURCES})/`);
const ofSources = (measure: string): RegExp => new RegExp(`^gft/(${SOURCES})/${measure}$`);

const RULES: Rule[] = [
  {
    title: "Reward by source",
    hint: "Mean reward of all answers and of each source. The main result of a run.",
    names: ["reward", ofSources("reward")],
  },
  {
    title: "Reward of preferred and non-preferred answers",
    hint: "beta times the log-probability gained since the start. The margin between both should grow.",
    names: [/^(eval\/)?rewards\/(margins|chosen|rejected)$/],
  },
  {
    title: "Preferred answer wins",
    hint: "Pairs whose preferred answer has the higher reward.",
    unit: "share of pairs",
    isShare: true,
    names: [/^(eval\/)?rewards\/accuracies$/],
  },
  {
    title: "Log-probability of answers",
    hint: "Both may fall while the margin grows. If the preferred one falls far, raise beta or lower the learning rate.",
    unit: "nats",
    names: ["logps/chosen", "logps/rejected"],
  },
  {
    title: "Held-out results",
    hint: "Reward, accuracy and pass@k on rows that are not used for training.",
    names: ["eval/reward", "eval/accuracy", /^eval\/pass@/],
  },
  {
    title: "Reward by grader",
    hint: "Mean score of each part of the grader over all answers.",
    names: [/^rewards\/.+\/mean$/],
  },
  {
    title: "Advantage by source",
    hint: "Above 0, the answers of this source are better than the mean of their groups.",
    names: [ofSources("advantage")],
  },
  {
    title: "Groups without contrast",
    hint: "All answers have the same reward, so these groups train nothing.",
    unit: "share of groups",
    isShare: true,
    names: ["frac_reward_zero_std"],
  },
  {
    title: "Entropy",
    hint: "A fast drop means that the answers become alike.",
    unit: "nats",
    names: ["entropy", "eval/entropy"],
  },
  {
    title: "Forward KL",
    hint: "How far the model has moved from the base model.",
    unit: "nats",
    names: ["eval/forward_kl", "kl"],
  },
  {
    title: "Rectified share",
    hint: "Tokens with a probability below tau; their weight is bounded.",
    unit: "share of tokens",
    isShare: true,
    names: ["gft/rectified_frac", ofSources("rectified_frac")],
  },
  {
    title: "Held-out loss",
    hint: "Loss on demonstrations (per token) or pairs that are not used for training.",
    unit: "nats",
    names: ["eval/loss"],
  },
  {
    title: "Loss",
    hint: "Group methods: stays near 0 because advantages are centred, so watch the reward. Pairs: starts at 0.69.",
    names: ["loss"],
  },
  { title: "Gradient norm", hint: "Before clipping to 1.", names: ["grad_norm"] },
  {
    title: "Answer length",
    hint: "If it grows but the reward does not, the model rambles.",
    unit: "tokens",
    names: ["completions/mean_length", ofSources("length"), "eval/mean_length"],
  },
  {
    title: "Throughput",
    hint: "Trained tokens per second of the update.",
    unit: "tokens per second",
    names: ["gft/tokens_per_second"],
  },
  { title: "Time per step", hint: "In total and by phase.", unit: "seconds", names: ["step_time", /^gft\/timing\//] },
];

/** Returns the predefined charts for these metrics, and one chart for each other metric. */
export function charts(names: string[]): { main: ChartSpec[]; rest: ChartSpec[] } {
  const left = new Set(names);
  const main: ChartSpec[] = [];
  for (const rule of RULES) {
    const matching = rule.names.flatMap((pattern) =>
      names.filter((name) => (typeof pattern === "string" ? name === pattern : pattern.test(name))),
    );
    for (const name of matching) left.delete(name);
    if (matching.length) main.push({ unit: "", isShare: false, ...rule, names: matching });
  }
  return {
    main,
    rest: [...left].sort().map((name) => ({ title: name, hint: "", unit: "", isShare: false, names: [name] })),
  };
}

const LABELS: Record<string, string> = {
  reward: "all",
  "gft/rectified_frac": "all",
  "completions/mean_length": "rollouts",
  "eval/mean_length": "held-out",
  step_time: "whole step",
  frac_reward_zero_std: "share",
  "rewards/margins": "margin",
  "rewards/chosen": "preferred",
  "rewards/rejected": "non-preferred",
  "rewards/accuracies": "training",
  "eval/rewards/margins": "held-out margin",
  "eval/rewards/chosen": "held-out preferred",
  "eval/rewards/rejected": "held-out non-preferred",
  "eval/rewards/accuracies": "held-out",
  "logps/chosen": "preferred",
  "logps/rejected": "non-preferred",
};

/** Returns the short label of a metric within its chart. */
export function label(name: string): string {
  const source = OF_SOURCE.exec(name);
  if (source) return (source[1] as string).replace("_", "-");
  const grader = /^rewards\/(.+)\/mean$/.exec(name);
  if (grader) return grader[1] as string;
  return (LABELS[name] ?? name.replace(/^(gft\/timing|gft|completions)\//, ""))
    .replace(/^eval\//, "held-out ")
    .replaceAll("_", " ");
}

export const isHeldOut = (name: string): boolean => name.startsWith("eval/");

const FIXED: Record<string, number> = { self: 2, expert: 0, teacher: 1, preferred: 0, non_preferred: 1 };
const PAIRS: Record<string, number> = { chosen: 0, rejected: 1, margins: 2 };

/** Returns an index into the palette; a source has the same colour in all charts. */
export function colour(name: string, position: number): number {
  const source = OF_SOURCE.exec(name)?.[1];
  if (source !== undefined) return FIXED[source] as number;
  return PAIRS[/^(?:rewards|logps)\/(.+)$/.exec(name)?.[1] ?? ""] ?? 3 + (position % 5);
}
