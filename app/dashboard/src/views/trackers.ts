// The trackers that a job's metrics can go to, as `integrations` of the request have them.

type Settings = Record<string, unknown>;
export type Integration = { type: string } & Record<string, unknown>;

interface Tracker {
  type: string;
  title: string;
  /** Names of its settings and how the form calls them; the first one is needed. */
  fields: [name: string, title: string][];
}

const RUN = "Run (the job's id if empty)";
export const TRACKERS: Tracker[] = [
  {
    type: "wandb",
    title: "Weights & Biases",
    fields: [
      ["project", "Project"],
      ["entity", "Team"],
      ["name", RUN],
    ],
  },
  {
    type: "mlflow",
    title: "MLflow",
    fields: [
      ["experiment", "Experiment"],
      ["run_name", RUN],
    ],
  },
  {
    type: "trackio",
    title: "Trackio",
    fields: [
      ["project", "Project"],
      ["name", RUN],
    ],
  },
  { type: "tensorboard", title: "TensorBoard", fields: [] },
];

export const settingsOf = (one: Integration | undefined): Settings => (one?.[one.type] as Settings | undefined) ?? {};

/** With this tracker or, where it is there already, without it. */
export function toggleTracker(integrations: Integration[], { type, fields }: Tracker): Integration[] {
  if (integrations.some((one) => one.type === type)) return integrations.filter((one) => one.type !== type);
  const [needed] = fields;
  return [...integrations, needed ? { type, [type]: { [needed[0]]: "grouptune" } } : { type }];
}

/** With a setting of a tracker; an empty one is left out, unless the tracker needs it. */
export function setTrackerSetting(
  integrations: Integration[],
  { type, fields }: Tracker,
  name: string,
  text: string,
): Integration[] {
  return integrations.map((one) => {
    if (one.type !== type) return one;
    const { [name]: _, ...rest } = settingsOf(one);
    return { type, [type]: text || fields[0]?.[0] === name ? { ...rest, [name]: text } : rest };
  });
}

/** As a job shows them, without what was not withoutUnset. */
export function withoutUnset(integrations: Integration[]): Integration[] {
  return integrations.map(({ type, ...rest }) => {
    const settings = Object.entries(settingsOf({ type, ...rest }));
    const own = settings.filter(([, value]) => value !== null && !(Array.isArray(value) && !value.length));
    return own.length ? { type, [type]: Object.fromEntries(own) } : { type };
  });
}
