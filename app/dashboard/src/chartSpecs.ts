// What the charts of a job show, found by the metrics' names.

export interface ChartSpec {
  title: string;
  hint: string;
  /** What the values count; empty for plain numbers. */
  unit: string;
  /** Values lie between 0 and 1. */
  isShare: boolean;
  names: string[];
}

type Rule = { title: string; hint: string; unit?: string; isShare?: boolean; names: (string | RegExp)[] };

const RULES: Rule[] = [
  {
    title: "Reward by source",
    hint: "Mean over all answers, and over each source's. The headline of a run.",
    names: ["reward", /^gft\/(expert|teacher|self)\/reward$/],
  },
  {
    title: "Held-out results",
    hint: "Reward, accuracy and pass@k on rows that are never trained on.",
    names: ["eval/reward", "eval/accuracy", /^eval\/pass@/],
  },
  {
    title: "Reward by grader",
    hint: "Mean over all answers of what each part of the grader gives.",
    names: [/^rewards\/.+\/mean$/],
  },
  {
    title: "Advantage by source",
    hint: "Above 0, this source's answers are better than their groups' mean.",
    names: [/^gft\/(expert|teacher|self)\/advantage$/],
  },
  {
    title: "Groups without contrast",
    hint: "Their rewards are all alike, so they train nothing.",
    unit: "share of groups",
    isShare: true,
    names: ["frac_reward_zero_std"],
  },
  {
    title: "Entropy",
    hint: "A fast fall means that answers become all alike.",
    unit: "nats",
    names: ["entropy", "eval/entropy"],
  },
  {
    title: "Forward KL",
    hint: "How far the model has moved from its base.",
    unit: "nats",
    names: ["eval/forward_kl", "kl"],
  },
  {
    title: "Rectified share",
    hint: "Tokens that are less probable than tau: their weight is bounded.",
    unit: "share of tokens",
    isShare: true,
    names: ["gft/rectified_frac", /^gft\/(expert|teacher|self)\/rectified_frac$/],
  },
  {
    title: "Held-out loss",
    hint: "Of the demonstrations that are never trained on.",
    unit: "nats a token",
    names: ["eval/loss"],
  },
  { title: "Loss", hint: "With centred advantages it hovers near 0: look at the reward.", names: ["loss"] },
  { title: "Gradient norm", hint: "Before it is clipped to 1.", names: ["grad_norm"] },
  {
    title: "Answer length",
    hint: "Growing without a growing reward: the model rambles.",
    unit: "tokens",
    names: ["completions/mean_length", /^gft\/(expert|teacher|self)\/length$/, "eval/mean_length"],
  },
  { title: "Throughput", hint: "Of the update.", unit: "tokens a second", names: ["gft/tokens_per_second"] },
  { title: "Time per step", hint: "In all, and by phase.", unit: "seconds", names: ["step_time", /^gft\/timing\//] },
];

/** The charts for these metrics: the known ones, and one for each of the rest. */
export function charts(names: string[]): { main: ChartSpec[]; rest: ChartSpec[] } {
  const left = new Set(names);
  const main: ChartSpec[] = [];
  for (const rule of RULES) {
    const found = rule.names.flatMap((want) =>
      names.filter((name) => (typeof want === "string" ? name === want : want.test(name))),
    );
    for (const name of found) left.delete(name);
    if (found.length) main.push({ unit: "", isShare: false, ...rule, names: found });
  }
  return {
    main,
    rest: [...left].sort().map((name) => ({ title: name, hint: "", unit: "", isShare: false, names: [name] })),
  };
}

const LABELS: Record<string, string> = {
  reward: "all",
  "gft/rectified_frac": "all",
  "completions/mean_length": "own answers",
  "eval/mean_length": "held-out",
  step_time: "whole step",
  frac_reward_zero_std: "share",
};

/** Short label of a metric within its chart. */
export function label(name: string): string {
  const source = /^gft\/(expert|teacher|self)\//.exec(name);
  if (source) return source[1] as string;
  const grader = /^rewards\/(.+)\/mean$/.exec(name);
  if (grader) return grader[1] as string;
  return (LABELS[name] ?? name.replace(/^(gft\/timing|gft|completions)\//, ""))
    .replace(/^eval\//, "held-out ")
    .replaceAll("_", " ");
}

export const isHeldOut = (name: string): boolean => name.startsWith("eval/");

const FIXED: Record<string, number> = { self: 2, expert: 0, teacher: 1 };

/** Index into the palette: a source always has the same colour. */
export function colour(name: string, position: number): number {
  const source = /^gft\/(expert|teacher|self)\//.exec(name)?.[1];
  return source === undefined ? 3 + (position % 5) : (FIXED[source] as number);
}
