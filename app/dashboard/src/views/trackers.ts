// The experiment trackers for a job's metrics, in the format of the request's `integrations`.

type Settings = Record<string, unknown>;
export type Integration = { type: string } & Record<string, unknown>;

interface Tracker {
  type: string;
  title: string;
  /** Its settings with their labels in the form; the first one is required. */
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

export const settingsOf = (integration: Integration | undefined): Settings =>
  (integration?.[integration.type] as Settings | undefined) ?? {};

/** Adds a tracker, or removes it if it is selected. */
export function toggleTracker(integrations: Integration[], { type, fields }: Tracker): Integration[] {
  if (integrations.some((integration) => integration.type === type))
    return integrations.filter((integration) => integration.type !== type);
  const [required] = fields;
  return [...integrations, required ? { type, [type]: { [required[0]]: "grouptune" } } : { type }];
}

/** Changes a setting of a tracker; removes an empty setting unless it is required. */
export function setTrackerSetting(
  integrations: Integration[],
  { type, fields }: Tracker,
  name: string,
  text: string,
): Integration[] {
  return integrations.map((integration) => {
    if (integration.type !== type) return integration;
    const { [name]: _, ...rest } = settingsOf(integration);
    return { type, [type]: text || fields[0]?.[0] === name ? { ...rest, [name]: text } : rest };
  });
}

/** Removes the unset settings from a job's integrations. */
export function withoutUnset(integrations: Integration[]): Integration[] {
  return integrations.map(({ type, ...rest }) => {
    const settings = Object.entries(settingsOf({ type, ...rest }));
    const own = settings.filter(([, value]) => value !== null && !(Array.isArray(value) && !value.length));
    return own.length ? { type, [type]: Object.fromEntries(own) } : { type };
  });
}
