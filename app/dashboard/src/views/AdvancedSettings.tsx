// All settings of a job that have no input elsewhere in the form, from the server's schema.
import { SchemaInput } from "../components/SchemaInput";
import { plural } from "../format";
import { type SchemaField, titleOf, valueAt, withValue } from "../schemaFields";

type Plain = Record<string, unknown>;
type Scope = "settings" | "job";

interface Props {
  settings: SchemaField[];
  job: SchemaField[];
  values: { settings: Plain; job: Plain };
  set: (scope: Scope, values: Plain) => void;
  method: string;
}

interface Entry {
  scope: Scope;
  field: SchemaField;
}

const PLACEHOLDERS: Record<string, string> = {
  seed: "random",
  gates: "eval/accuracy >= 0.8",
  alias: "prod",
  chat_template_kwargs: '{"enable_thinking": false}',
  metadata: "team=search",
  "hyperparameters.max_steps": "no limit",
  "evaluation.patience": "never",
};

/** Returns the fields by the part of the request that they are in, in the order of the schema. */
function groupsOf({ settings, job }: Pick<Props, "settings" | "job">): [string, Entry[]][] {
  const groups = new Map<string, Entry[]>();
  const add = (title: string, entry: Entry) => groups.set(title, [...(groups.get(title) ?? []), entry]);
  for (const field of settings) add(groupTitle(field.path), { scope: "settings", field });
  for (const field of job) add("Job", { scope: "job", field });
  return [...groups];
}

function groupTitle(path: string): string {
  const around = path.split(".").slice(0, -1);
  return around[0] === "teacher" ? "Sampling of the teacher" : titleOf(around.at(-1) ?? "method");
}

export function AdvancedSettings({ settings, job, values, set, method }: Props) {
  const changed = [
    ...settings.filter(({ path }) => valueAt(values.settings, path) !== undefined),
    ...job.filter(({ path }) => valueAt(values.job, path) !== undefined),
  ].length;
  return (
    <details>
      <summary>Advanced settings{changed > 0 && `: ${plural(changed, "change")}`}</summary>
      {groupsOf({ settings, job }).map(([title, entries]) => (
        <fieldset key={title} class="settings-group">
          <legend>{title}</legend>
          <div class="settings-grid">
            {entries.map(({ scope, field }) => (
              <div key={field.path} class={["long", "json", "pairs"].includes(field.kind) ? "span" : ""}>
                <JobSetting {...{ field, method }} scope={scope} values={values[scope]} set={set} group={title} />
              </div>
            ))}
          </div>
        </fieldset>
      ))}
    </details>
  );
}

/** The input of one setting. */
export function JobSetting(props: {
  field: SchemaField;
  scope: Scope;
  method: string;
  values: Plain;
  set: (scope: Scope, values: Plain) => void;
  group?: string;
}) {
  const { field, scope, method, values, set, group } = props;
  return (
    <SchemaInput
      field={field}
      value={valueAt(values, field.path)}
      set={(value) => set(scope, withValue(values, field.path, value))}
      path={scope === "job" ? field.path : `method.${method}.${field.path}`}
      {...(group?.startsWith("Sampling of") ? { name: `${group}: ${field.title}` } : {})}
      {...(PLACEHOLDERS[field.path] ? { placeholder: PLACEHOLDERS[field.path] as string } : {})}
    />
  );
}
