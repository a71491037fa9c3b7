// A job's settings as flat paths, to compare jobs with each other and with the defaults; and as a request.
import type { Job } from "./types";
import { type Integration, withoutUnset } from "./views/trackers";

export type FlatSettings = Record<string, string>;

export function flatten(value: unknown, path = ""): FlatSettings {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    const flat: FlatSettings = {};
    for (const [key, inner] of Object.entries(value))
      Object.assign(flat, flatten(inner, path ? `${path}.${key}` : key));
    return flat;
  }
  return { [path]: typeof value === "string" ? value : JSON.stringify(value) };
}

/** Returns the request that would create this job. */
export function requestFromJob(job: Job): Record<string, unknown> {
  const method = job.method as Record<string, unknown>;
  return {
    model: job.model,
    training_file: job.training_file,
    ...(job.validation_file ? { validation_file: job.validation_file } : {}),
    ...(job.test_file ? { test_file: job.test_file } : {}),
    method,
    seed: job.seed,
    ...(job.user_provided_suffix ? { suffix: job.user_provided_suffix } : {}),
    ...(job.metadata ? { metadata: job.metadata } : {}),
    ...(job.gates.length ? { gates: job.gates.map(({ gate }) => gate) } : {}),
    ...(job.control ? { control: job.control.method } : {}),
    ...(job.alias ? { alias: job.alias } : {}),
    ...(job.resources.gpus === "auto" && job.resources.nodes === 1 ? {} : { resources: job.resources }),
    ...(job.priority ? { priority: job.priority } : {}),
    ...(Object.keys(job.chat_template_kwargs).length ? { chat_template_kwargs: job.chat_template_kwargs } : {}),
    ...(job.integrations ? { integrations: withoutUnset(job.integrations as Integration[]) } : {}),
  };
}

interface Schema {
  $ref?: string;
  default?: unknown;
  properties?: Record<string, Schema>;
  oneOf?: Schema[];
  anyOf?: Schema[];
}

/** Returns the default values of the properties of an OpenAPI schema. */
export function schemaDefaults(schemas: Record<string, Schema>, name: string): unknown {
  const values: Record<string, unknown> = {};
  for (const [key, property] of Object.entries(schemas[name]?.properties ?? {})) {
    const inner = property.$ref?.split("/").pop();
    if (inner !== undefined && schemas[inner]?.properties) {
      const own = property.default;
      const below = schemaDefaults(schemas, inner) as Record<string, unknown>;
      values[key] = own !== null && typeof own === "object" ? { ...below, ...own } : below;
    } else if (property.default !== undefined) values[key] = property.default;
  }
  return values;
}

const PYTHON: Record<string, string> = { true: "True", false: "False", null: "None" };

/** Formats a JSON value as a Python literal. */
function python(value: unknown, indent = ""): string {
  if (value === null || typeof value !== "object")
    return PYTHON[String(value)] && typeof value !== "string"
      ? (PYTHON[String(value)] as string)
      : JSON.stringify(value);
  const deeper = `${indent}    `;
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const items = Array.isArray(value)
    ? value.map((item) => python(item, deeper))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${python(item, deeper)}`);
  if (!items.length) return open + close;
  return `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}`;
}

/** Returns code that sends a job request, in three languages. */
export function requestSnippets(body: unknown, origin: string): { curl: string; python: string; cli: string } {
  const json = JSON.stringify(body, null, 2);
  const quoted = json.replaceAll("'", "'\\''");
  return {
    curl: `curl ${origin}/v1/fine_tuning/jobs \\\n  -H "Authorization: Bearer $GROUPTUNE_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d '${quoted}'`,
    python: `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1")\njob = client.fine_tuning.jobs.create(**${python(body)})\nprint(job.id)`,
    cli: `cat > job.json <<'END'\n${json}\nEND\ngrouptune jobs create -f job.json --wait`,
  };
}
