// Which charts a job has, by its method: sections, titles, labels and colours of its metrics.

export interface ChartSpec {
  title: string;
  hint: string;
  /** Unit of the values; empty for plain numbers. */
  unit: string;
  /** Whether the values lie between 0 and 1. */
  isShare: boolean;
  names: string[];
}

export interface ChartSection {
  title: string;
  /** Whether it is open until the user closes it. */
  isOpen: boolean;
  charts: ChartSpec[];
}

type Rule = { title: string; hint: string; unit?: string; isShare?: boolean; names: (string | RegExp)[] };

const SOURCES = "expert|teacher|self|preferred|non_preferred";
const OF_SOURCE = new RegExp(`^gft/(${SOURCES})/`);
const ofSources = (measure: string): RegExp => new RegExp(`^gft/(${SOURCES})/${measure}$`);
const loss = (hint: string): Rule => ({ title: "Loss", hint, names: ["loss"] });
/** Replaces the hint of one method in a chart of several. */
const LOSSES = "Each method has its own loss: compare how it changes, not its values.";

const HELD_OUT_RESULTS: Rule = {
  title: "Held-out results",
  hint: "Reward, accuracy and pass@k on the held-out rows that select the adapter. The results above use other rows.",
  names: ["eval/reward", "eval/accuracy", /^eval\/pass@/],
};
const HELD_OUT_LOSS: Rule = {
  title: "Held-out loss",
  hint: "Loss on demonstrations (per token) or pairs of the held-out rows that select the adapter.",
  unit: "nats",
  names: ["eval/loss"],
};
const FORWARD_KL: Rule = {
  title: "Forward KL",
  hint: "eval/forward_kl: how much less probable 16 answers of the starting model have become, a rough estimate.",
  unit: "nats",
  names: ["eval/forward_kl", "kl"],
};
const ENTROPY: Rule = {
  title: "Entropy",
  hint: "A fast drop means that the answers become alike. Held-out: along greedy answers, so it is lower.",
  unit: "nats",
  names: ["entropy", "eval/entropy"],
};
const GRADIENT_NORM: Rule = { title: "Gradient norm", hint: "Before clipping to 1.", names: ["grad_norm"] };
const SPEED: Rule[] = [
  {
    title: "Throughput",
    hint: "Trained tokens per second of the update.",
    unit: "tokens per second",
    names: ["gft/tokens_per_second"],
  },
  { title: "Time per step", hint: "In total and by phase.", unit: "seconds", names: ["step_time", /^gft\/timing\//] },
];

/** Methods with the same charts. */
type Family = "groups" | "imitation" | "pairs";
const FAMILIES: Record<string, Family> = { supervised: "imitation", dft: "imitation", dpo: "pairs" };
const familyOf = (method: string): Family => FAMILIES[method] ?? "groups";

/** The sections of each family; the first chart shows whether the model learns. */
const LAYOUTS: Record<Family, [string, Rule[]][]> = {
  groups: [
    [
      "Learning",
      [
        {
          title: "Reward by source",
          hint: "Mean reward of all answers and of each source. The main result of a run.",
          names: ["reward", ofSources("reward")],
        },
        {
          title: "Reward by grader",
          hint: "Mean score of each part of the grader over all answers.",
          names: [/^rewards\/.+\/mean$/],
        },
        {
          title: "Answer length",
          hint: "If it grows but the reward does not, the model rambles.",
          unit: "tokens",
          names: ["completions/mean_length", ofSources("length"), "eval/mean_length"],
        },
      ],
    ],
    ["Evaluation", [HELD_OUT_RESULTS, HELD_OUT_LOSS, FORWARD_KL]],
    [
      "Groups",
      [
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
          title: "Rectified share",
          hint: "Tokens with a probability below tau; their weight is bounded.",
          unit: "share of tokens",
          isShare: true,
          names: ["gft/rectified_frac", ofSources("rectified_frac")],
        },
      ],
    ],
    [
      "Optimisation",
      [ENTROPY, GRADIENT_NORM, loss("Stays near 0 because advantages are centred, so watch the reward.")],
    ],
  ],
  imitation: [
    ["Learning", [loss("On the demonstrations of each step. It should fall."), HELD_OUT_LOSS, HELD_OUT_RESULTS]],
    ["Optimisation", [GRADIENT_NORM, ENTROPY, FORWARD_KL]],
  ],
  pairs: [
    [
      "Learning",
      [
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
        loss("Starts at 0.69 and should fall."),
        HELD_OUT_LOSS,
        HELD_OUT_RESULTS,
        {
          title: "Log-probability of answers",
          hint: "Both may fall while the margin grows. If the preferred one falls far, raise beta or lower the learning rate.",
          unit: "nats",
          names: ["logps/chosen", "logps/rejected"],
        },
      ],
    ],
    ["Optimisation", [GRADIENT_NORM, ENTROPY, FORWARD_KL]],
  ],
};

/** Metrics of groups, which mean nothing for a method without groups: its advantages are 1, its reward is absent. */
const OF_GROUPS: RegExp[] = [
  /^(reward|reward_std|frac_reward_zero_std|gft\/rectified_frac)$/,
  ofSources("(reward|advantage|rectified_frac)"),
  /^(rewards\/.+\/(mean|std)|completions\/.+|sampling\/.+|gft\/timing\/(rollout|grading))$/,
];

/** Returns the sections of charts for the metrics `names` of jobs with these methods; no section is empty. */
export function chartSections(names: string[], methods: string[]): ChartSection[] {
  const families = new Set(methods.map(familyOf));
  const family: Family = families.size === 1 ? ([...families][0] as Family) : "groups";
  const shown = families.has("groups") ? names : names.filter((name) => !OF_GROUPS.some((own) => own.test(name)));
  const left = new Set(shown);
  const found = ({ names: patterns, ...rule }: Rule): ChartSpec[] => {
    const matching = patterns.flatMap((pattern) =>
      shown.filter((name) => (typeof pattern === "string" ? name === pattern : pattern.test(name))),
    );
    for (const name of matching) left.delete(name);
    const hint = families.size > 1 && matching[0] === "loss" ? LOSSES : rule.hint;
    return matching.length ? [{ unit: "", isShare: false, ...rule, hint, names: matching }] : [];
  };
  const sections = [...LAYOUTS[family], ["Speed", SPEED] as const].map(([title, rules]) => ({
    title,
    isOpen: title !== "Speed",
    charts: rules.flatMap(found),
  }));
  const rest = [...left].sort().map((name) => ({ title: name, hint: "", unit: "", isShare: false, names: [name] }));
  return [...sections, { title: "Other metrics", isOpen: false, charts: rest }].filter(({ charts }) => charts.length);
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
