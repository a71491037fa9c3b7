// Form fields from the server's OpenAPI schemas: kinds, ranges, defaults and help of every setting.

export interface Schema {
  $ref?: string;
  type?: string;
  title?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, Schema>;
  patternProperties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  items?: Schema;
  prefixItems?: Schema[];
  oneOf?: Schema[];
  anyOf?: Schema[];
  required?: string[];
  deprecated?: boolean;
  discriminator?: { mapping: Record<string, string> };
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
}
export type Schemas = Record<string, Schema>;

export type Kind =
  | "integer"
  | "number"
  | "boolean"
  | "choice"
  | "text"
  | "long"
  | "list"
  | "numbers"
  | "pairs"
  | "json";

export interface SchemaField {
  /** Path in the object, such as `sampling.temperature`. */
  path: string;
  title: string;
  help: string;
  kind: Kind;
  /** The default as text; empty without one. */
  byDefault: string;
  choices: string[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minLength?: number;
  maxLength?: number;
  isRequired: boolean;
}

/** Titles that the name of a setting does not give. */
const TITLES: Record<string, string> = {
  n_epochs: "Epochs",
  r: "Rank",
  lr_schedule: "Learning-rate schedule",
  learning_rate_multiplier: "Learning-rate multiplier",
  kl_coefficient: "KL coefficient",
  tau: "tau",
  beta: "beta",
  top_p: "Top p",
  use_dora: "DoRA",
  use_rslora: "rsLoRA",
  max_tokens: "Max tokens per answer",
  max_length: "Max length of a row",
  pass_samples: "Samples for pass@k",
  eval_samples: "Held-out rows per evaluation",
  eval_interval: "Evaluation interval",
  chat_template_kwargs: "Chat template variables",
  suffix: "Name (suffix)",
  alias: "Alias for the model",
  control: "Control: compare with another method",
  lora: "LoRA adapter",
  hyperparameters: "Training",
  pass_threshold: "Passing reward",
  gpus: "GPUs of a worker",
  nodes: "Workers",
  calculate_output: "Formula",
  url: "URL",
};

/** A setting's name in words. */
export function titleOf(name: string): string {
  const words = name.replaceAll("_", " ");
  return TITLES[name] ?? words.charAt(0).toUpperCase() + words.slice(1);
}

const LONG_TEXT = 4000;

export function resolve(schemas: Schemas, schema: Schema): Schema {
  const name = schema.$ref?.split("/").pop();
  return name ? { ...schemas[name], ...withoutRef(schema) } : schema;
}

function withoutRef({ $ref: _, ...rest }: Schema): Schema {
  return rest;
}

/** Returns the alternatives of a schema except null. */
function alternatives(schemas: Schemas, schema: Schema): Schema[] {
  const all = (schema.anyOf ?? [schema]).map((one) => resolve(schemas, one));
  return all.filter((one) => one.type !== "null");
}

/** Returns the fields of an object in the order of its schema; nested objects are flattened. */
export function fieldsOf(schemas: Schemas, schema: Schema, prefix = ""): SchemaField[] {
  const object = resolve(schemas, schema);
  return Object.entries(object.properties ?? {}).flatMap(([name, property]) => {
    const shown = resolve(schemas, property);
    if (shown.deprecated || shown.const !== undefined) return [];
    const path = prefix ? `${prefix}.${name}` : name;
    const options = alternatives(schemas, shown);
    const nested = options.length === 1 ? options[0] : undefined;
    if (nested?.properties) return fieldsOf(schemas, nested, path);
    return [fieldOf(name, path, shown, options, object.required?.includes(name) ?? false)];
  });
}

function fieldOf(name: string, path: string, shown: Schema, options: Schema[], isRequired: boolean): SchemaField {
  const main = options.find((one) => one.const === undefined) ?? options[0] ?? {};
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength } = main;
  const limits = { minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength };
  const kind = kindOf(main);
  const special = options.find((one) => one.const !== undefined)?.const;
  const byDefault = shown.default ?? (special === undefined ? undefined : special);
  return {
    path,
    title: titleOf(name),
    help: shown.description ?? main.description ?? "",
    kind,
    byDefault: byDefault === undefined || byDefault === null ? "" : format(kind, byDefault),
    choices: (main.enum ?? []).map(String),
    isRequired,
    ...(Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined)) as typeof limits),
  } as SchemaField;
}

function kindOf(schema: Schema): Kind {
  if (schema.enum) return "choice";
  switch (schema.type) {
    case "integer":
    case "number":
    case "boolean":
      return schema.type;
    case "string":
      return (schema.maxLength ?? 0) >= LONG_TEXT ? "long" : "text";
    case "array":
      if (schema.prefixItems?.every((item) => item.type === "number")) return "numbers";
      return schema.items?.type === "string" ? "list" : "json";
    case "object":
      return typeof schema.additionalProperties === "object" && schema.additionalProperties.type === "string"
        ? "pairs"
        : "json";
    default:
      return "json";
  }
}

type Plain = Record<string, unknown>;
const isPlain = (value: unknown): value is Plain =>
  value !== null && typeof value === "object" && !Array.isArray(value);

/** Returns a value as the text of its input. */
export function format(kind: Kind, value: unknown): string {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  if (kind === "list" || kind === "numbers") return Array.isArray(value) ? value.join(", ") : String(value);
  if (kind === "pairs" && isPlain(value))
    return Object.entries(value)
      .map(([name, text]) => `${name}=${String(text)}`)
      .join("\n");
  return typeof value === "object" ? JSON.stringify(value, null, 2) : String(value);
}

/** Returns the value of an input's text; undefined if it is empty, and the text itself if it cannot be read. */
export function parse(kind: Kind, text: string): unknown {
  const trimmed = text.trim();
  if (!trimmed) return undefined;
  switch (kind) {
    case "integer":
    case "number":
      return Number.isNaN(Number(trimmed)) ? trimmed : Number(trimmed);
    case "boolean":
      return trimmed === "true" ? true : trimmed === "false" ? false : trimmed;
    case "list": {
      const items = trimmed.split(/[,\n]/).map((item) => item.trim());
      return items.filter(Boolean);
    }
    case "numbers": {
      const items = trimmed.split(",").map((item) => Number(item.trim() || Number.NaN));
      return items.some(Number.isNaN) ? trimmed : items;
    }
    case "pairs": {
      const pairs = trimmed.split("\n").map((line) => line.split(/=(.*)/s));
      if (pairs.some(([name, value]) => !name?.trim() || value === undefined)) return trimmed;
      return Object.fromEntries(pairs.map(([name, value]) => [name?.trim(), value?.trim()]));
    }
    case "json":
      try {
        return JSON.parse(trimmed) as unknown;
      } catch {
        return trimmed;
      }
    case "long":
      return text;
    default:
      return trimmed;
  }
}

const count = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 10 });

function rangeOf(field: SchemaField): string {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field;
  const low = minimum !== undefined ? count(minimum) : exclusiveMinimum !== undefined ? count(exclusiveMinimum) : "";
  const high = maximum !== undefined ? count(maximum) : exclusiveMaximum !== undefined ? count(exclusiveMaximum) : "";
  if (minimum !== undefined && maximum !== undefined) return `from ${low} to ${high}`;
  const parts = [
    low && (minimum !== undefined ? `at least ${low}` : `more than ${low}`),
    high && (maximum !== undefined ? `at most ${high}` : `less than ${high}`),
  ];
  return parts.filter(Boolean).join(" and ");
}

/** Returns what is wrong with a value, in words; null if the server may accept it. */
export function problemOf(field: SchemaField, value: unknown): string | null {
  if (value === undefined || value === null || value === "")
    return field.isRequired && !field.byDefault ? "Required." : null;
  if (field.byDefault !== "" && value === field.byDefault) return null;
  switch (field.kind) {
    case "integer":
    case "number": {
      const range = rangeOf(field);
      const whole = field.kind === "integer";
      const isKind = typeof value === "number" && (!whole || Number.isInteger(value));
      if (isKind && isWithin(field, value as number)) return null;
      return `Enter a ${whole ? "whole " : ""}number${range ? `: ${range}` : ""}.`;
    }
    case "numbers":
      return Array.isArray(value) ? null : "Enter numbers separated by commas.";
    case "pairs":
      return isPlain(value) ? null : "Write one name=value per line.";
    case "json":
      return typeof value === "string" ? "This is not valid JSON." : null;
    case "text":
    case "long":
      if (typeof value === "string" && field.maxLength !== undefined && value.length > field.maxLength)
        return `Use at most ${plural(field.maxLength)}.`;
      return null;
    default:
      return null;
  }
}

const plural = (characters: number): string => `${count(characters)} character${characters === 1 ? "" : "s"}`;

function isWithin(field: SchemaField, value: number): boolean {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field;
  return (
    (minimum === undefined || value >= minimum) &&
    (maximum === undefined || value <= maximum) &&
    (exclusiveMinimum === undefined || value > exclusiveMinimum) &&
    (exclusiveMaximum === undefined || value < exclusiveMaximum)
  );
}

/** Returns the value at a dotted path. */
export function valueAt(object: unknown, path: string): unknown {
  return path.split(".").reduce<unknown>((inner, name) => (isPlain(inner) ? inner[name] : undefined), object);
}

/** Returns a copy with the value at a dotted path changed; undefined removes it, and objects that become empty. */
export function withValue(object: Plain, path: string, value: unknown): Plain {
  const [name = "", ...rest] = path.split(".");
  const { [name]: old, ...others } = object;
  const changed = rest.length ? withValue(isPlain(old) ? old : {}, rest.join("."), value) : value;
  const isEmpty = changed === undefined || (rest.length > 0 && isPlain(changed) && !Object.keys(changed).length);
  if (isEmpty) return others;
  return name in object ? { ...object, [name]: changed } : { ...others, [name]: changed };
}

const CREATE_JOB = "CreateJob";

/** Returns the settings of a method, and those of all jobs, without the fields of these names. */
export function jobFields(
  schemas: Schemas,
  method: string,
  without: string[],
): { settings: SchemaField[]; job: SchemaField[] } {
  const job = schemas[CREATE_JOB] ?? {};
  const variant = job.properties?.method?.discriminator?.mapping[method];
  const settings = variant ? resolve(schemas, { $ref: variant }).properties?.[method] : undefined;
  const isShown = (field: SchemaField) =>
    !without.some((name) => field.path === name || field.path.startsWith(`${name}.`));
  return {
    settings: settings ? fieldsOf(schemas, settings).filter(isShown) : [],
    job: fieldsOf(schemas, job).filter(isShown),
  };
}
