// What the charts of a job show, found by the metrics' names.

export interface ChartSpec {
  title: string;
  hint: string;
  names: string[];
}

type Rule = { title: string; hint: string; names: (string | RegExp)[] };

const RULES: Rule[] = [
  {
    title: "Reward by source",
    hint: "Mean reward of all members, and of each source. The headline of a run.",
    names: ["reward", /^gft\/(expert|teacher|self)\/reward$/],
  },
  {
    title: "Held-out results",
    hint: "Reward, accuracy and pass@k on rows that are never trained on.",
    names: ["eval/reward", "eval/accuracy", /^eval\/pass@/],
  },
  { title: "Loss", hint: "With centred advantages it hovers near 0: look at the reward.", names: ["loss", "eval/loss"] },
  { title: "Entropy", hint: "A fast fall means that answers become all alike.", names: ["entropy", "eval/entropy"] },
  { title: "Forward KL", hint: "How far the model has moved from its base.", names: ["eval/forward_kl", "kl"] },
  {
    title: "Rectified share",
    hint: "Share of tokens with p < tau, whose weight is bounded.",
    names: ["gft/rectified_frac", /^gft\/(expert|teacher|self)\/rectified_frac$/],
  },
  {
    title: "Advantage by source",
    hint: "Above 0: this source is better than its groups' mean.",
    names: [/^gft\/(expert|teacher|self)\/advantage$/],
  },
  {
    title: "Groups without contrast",
    hint: "Share of groups whose rewards are all alike: they train nothing.",
    names: ["frac_reward_zero_std"],
  },
  { title: "Gradient norm", hint: "Before clipping.", names: ["grad_norm"] },
  {
    title: "Response length",
    hint: "In tokens.",
    names: ["completions/mean_length", /^gft\/(expert|teacher|self)\/length$/, "eval/mean_length"],
  },
  { title: "Tokens per second", hint: "In the update.", names: ["gft/tokens_per_second"] },
  { title: "Time per step", hint: "Seconds, by phase.", names: ["step_time", /^gft\/timing\//] },
];

/** The charts for these metrics: the known ones, and one for each of the rest. */
export function charts(names: string[]): { main: ChartSpec[]; rest: ChartSpec[] } {
  const left = new Set(names);
  const main: ChartSpec[] = [];
  for (const rule of RULES) {
    const found = rule.names.flatMap((want) =>
      names.filter((name) => (typeof want === "string" ? name === want : want.test(name))),
    );
    found.forEach((name) => left.delete(name));
    if (found.length) main.push({ title: rule.title, hint: rule.hint, names: found });
  }
  return { main, rest: [...left].sort().map((name) => ({ title: name, hint: "", names: [name] })) };
}

/** Short label of a metric within its chart. */
export function label(name: string): string {
  const source = /^gft\/(expert|teacher|self)\//.exec(name);
  if (source) return source[1] as string;
  return name.replace(/^gft\/timing\//, "").replace(/^gft\//, "").replaceAll("_", " ");
}

const FIXED: Record<string, number> = { self: 2, expert: 0, teacher: 1 };

/** Index into the palette: a source always has the same colour. */
export function colour(name: string, position: number): number {
  const source = /^gft\/(expert|teacher|self)\//.exec(name)?.[1];
  return source === undefined ? 3 + (position % 5) : (FIXED[source] as number);
}

/** Exponential moving average, unbiased at its beginning; gaps stay gaps. */
export function smooth(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let mean = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + (1 - weight) * value;
    seen = seen * weight + (1 - weight);
    return mean / seen;
  });
}

export interface Table {
  steps: number[];
  series: Record<string, (number | null)[]>;
}

/** `next` behind `known`; steps that both have are taken from `next`, as after a resume. */
export function append(known: Table, next: Table): Table {
  if (!next.steps.length) return known;
  const first = next.steps[0] as number;
  const cut = known.steps.findIndex((step) => step >= first);
  const kept = cut < 0 ? known.steps.length : cut;
  const steps = [...known.steps.slice(0, kept), ...next.steps];
  const series: Table["series"] = {};
  for (const name of new Set([...Object.keys(known.series), ...Object.keys(next.series)])) {
    const before = known.series[name]?.slice(0, kept) ?? new Array<null>(kept).fill(null);
    series[name] = [...before, ...(next.series[name] ?? new Array<null>(next.steps.length).fill(null))];
  }
  return { steps, series };
}
