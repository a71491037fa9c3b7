// The values of the new-job form, and their conversion to and from a request.

type Plain = Record<string, unknown>;
export type MethodName = "gft" | "supervised" | "reinforcement" | "dft" | "dpo";

import type { Integration } from "./trackers";

/** Settings of the teacher model; without a model there is none. */
export interface TeacherForm {
  model: string;
  base_url: string;
  temperature: string;
  tokens: string;
  requests: string;
  /** Sampling settings without a field in the form, kept when a job is cloned. */
  sampling: Plain;
}

export interface JobForm {
  model: string;
  training_file: string;
  validation_file: string;
  method: MethodName;
  grader: string;
  expert: number;
  teacher: number;
  self: number;
  teacher_settings: TeacherForm;
  n_epochs: string;
  max_steps: string;
  batch_size: string;
  learning_rate_multiplier: string;
  lora_r: string;
  tau: string;
  beta: string;
  max_tokens: string;
  seed: string;
  gate: string;
  alias: string;
  suffix: string;
  integrations: Integration[];
  /** Method settings without a field in the form, kept when a job is cloned. */
  rest: Plain;
  /** Job settings without a field in the form: more gates, metadata, priority. */
  others: Plain;
}

export const METHODS: { name: MethodName; title: string; text: string }[] = [
  {
    name: "gft",
    title: "GFT",
    text: "compares demonstrations, teacher answers and rollouts: learns from examples and from its own attempts",
  },
  { name: "supervised", title: "Supervised", text: "imitates the examples" },
  { name: "reinforcement", title: "Reinforcement", text: "learns from its own graded rollouts only" },
  { name: "dft", title: "DFT", text: "imitates the examples, with each token weighted by its probability" },
  { name: "dpo", title: "DPO", text: "learns from pairs of a preferred and a non-preferred answer" },
];

const GRADER = {
  type: "math",
  name: "answer",
  reference: "{{item.reference_answer}}",
  answer: "last_number",
};

export const NO_TEACHER: TeacherForm = {
  model: "",
  base_url: "",
  temperature: "",
  tokens: "",
  requests: "",
  sampling: {},
};

export const EMPTY_FORM: JobForm = {
  model: "",
  training_file: "",
  validation_file: "",
  method: "gft",
  grader: JSON.stringify(GRADER, null, 2),
  expert: 1,
  teacher: 3,
  self: 4,
  teacher_settings: NO_TEACHER,
  n_epochs: "",
  max_steps: "",
  batch_size: "",
  learning_rate_multiplier: "",
  lora_r: "",
  tau: "",
  beta: "",
  max_tokens: "",
  seed: "",
  gate: "",
  alias: "",
  suffix: "",
  integrations: [],
  rest: {},
  others: {},
};

const OF_GROUPS = [
  "kl_coefficient",
  "zero_variance",
  "advantage_scaling",
  "loss_normalization",
  "mask_truncated",
  "updates_per_batch",
  "clip_low",
  "clip_high",
  "importance_cap",
  "resampling_rounds",
];
/** Settings of some methods only; those of other methods are left out. */
const ONLY_OF: Record<string, MethodName[]> = {
  ...Object.fromEntries(OF_GROUPS.map((name) => [name, ["gft", "reinforcement"] as MethodName[]])),
  train_turns: ["supervised", "dft"],
  label_smoothing: ["dpo"],
};
const ofMethod = (settings: Plain, method: MethodName): Plain =>
  Object.fromEntries(Object.entries(settings).filter(([name]) => ONLY_OF[name]?.includes(method) ?? true));

/** Parses a number; other text is kept, so that the server's validation reports it. */
const value = (text: string): unknown =>
  text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text.trim();
const filled = (pairs: Record<string, string>): Plain =>
  Object.fromEntries(Object.entries(pairs).flatMap(([key, text]) => (text.trim() ? [[key, value(text)]] : [])));
const object = (item: unknown): Plain => (item !== null && typeof item === "object" ? (item as Plain) : {});

export function requestFromForm(form: JobForm): { body: Plain; error?: string } {
  const isGroup = form.method === "gft" || form.method === "reinforcement";
  let grader: unknown;
  let error: string | undefined;
  if (isGroup) {
    try {
      grader = JSON.parse(form.grader);
    } catch (problem) {
      error = `Invalid JSON: ${(problem as Error).message}`;
    }
  }
  const rest = ofMethod(form.rest, form.method);
  const lora = { ...object(object(rest.hyperparameters).lora), ...filled({ r: form.lora_r }) };
  const hyperparameters: Plain = {
    ...ofMethod(object(rest.hyperparameters), form.method),
    ...filled({
      n_epochs: form.n_epochs,
      max_steps: form.max_steps,
      batch_size: form.batch_size,
      learning_rate_multiplier: form.learning_rate_multiplier,
      ...(form.method === "dpo" ? { beta: form.beta } : {}),
    }),
    ...(Object.keys(lora).length ? { lora } : {}),
  };
  const sampling = { ...object(rest.sampling), ...filled({ max_tokens: form.max_tokens }) };
  const group =
    form.method === "gft" ? { expert: form.expert, teacher: form.teacher, self: form.self } : { self: form.self };
  const settings: Plain = {
    ...rest,
    ...(isGroup ? { grader: grader ?? null, group } : {}),
    ...(form.method === "gft" ? { ...filled({ tau: form.tau }), ...teacherOf(form) } : {}),
    ...(Object.keys(sampling).length ? { sampling } : {}),
    ...(Object.keys(hyperparameters).length ? { hyperparameters } : {}),
  };
  const { gates: further, ...others } = form.others;
  const gates = [form.gate.trim(), ...((further as string[] | undefined) ?? [])].filter(Boolean);
  const body: Plain = {
    model: form.model,
    training_file: form.training_file,
    ...(form.validation_file ? { validation_file: form.validation_file } : {}),
    method: { type: form.method, [form.method]: settings },
    ...filled({ seed: form.seed }),
    ...(form.suffix.trim() ? { suffix: form.suffix.trim() } : {}),
    ...(gates.length ? { gates } : {}),
    ...(form.alias.trim() ? { alias: form.alias.trim() } : {}),
    ...others,
    ...(form.integrations.length ? { integrations: form.integrations } : {}),
  };
  return error === undefined ? { body } : { body, error };
}

/** Leaves the teacher out if no group has teacher answers. */
function teacherOf({ teacher_settings, teacher }: JobForm): Plain {
  if (!teacher_settings.model.trim() || teacher === 0) return {};
  const sampling = { ...teacher_settings.sampling, ...filled({ temperature: teacher_settings.temperature }) };
  const budget = filled({ tokens: teacher_settings.tokens, requests: teacher_settings.requests });
  return {
    teacher: {
      model: teacher_settings.model.trim(),
      ...(teacher_settings.base_url.trim() ? { base_url: teacher_settings.base_url.trim() } : {}),
      ...(Object.keys(sampling).length ? { sampling } : {}),
      ...(Object.keys(budget).length ? { budget } : {}),
    },
  };
}

function teacherFromRequest(teacher: Plain): TeacherForm {
  const { temperature, ...sampling } = object(teacher.sampling);
  const { tokens, requests } = object(teacher.budget);
  const server = { model: text(teacher.model), base_url: text(teacher.base_url) };
  return { ...server, temperature: text(temperature), tokens: text(tokens), requests: text(requests), sampling };
}

const text = (item: unknown): string => (item === undefined || item === null || item === "auto" ? "" : String(item));

/** Fills the form from the request of an existing job, without its seed: the clone gets a new one. */
export function formFromRequest(body: Record<string, unknown>): JobForm {
  const method = object(body.method);
  const name = String(method.type) as MethodName;
  const { grader, group, tau, teacher, sampling, hyperparameters, ...rest } = object(method[name]);
  const { max_tokens, ...sampled } = object(sampling);
  const { n_epochs, max_steps, batch_size, learning_rate_multiplier, beta, lora, ...others } = object(hyperparameters);
  const { r, ...adapter } = object(lora);
  const mix = object(group);
  const [gate, ...gates] = (body.gates as string[] | undefined) ?? [];
  return {
    ...EMPTY_FORM,
    model: text(body.model),
    training_file: text(body.training_file),
    validation_file: text(body.validation_file),
    method: name,
    grader: grader === undefined ? EMPTY_FORM.grader : JSON.stringify(grader, null, 2),
    expert: Number(mix.expert ?? 1),
    teacher: Number(mix.teacher ?? 3),
    self: Number(mix.self ?? 4),
    teacher_settings: teacherFromRequest(object(teacher)),
    n_epochs: text(n_epochs),
    max_steps: text(max_steps),
    batch_size: text(batch_size),
    learning_rate_multiplier: text(learning_rate_multiplier),
    lora_r: text(r),
    tau: text(tau),
    beta: text(beta),
    max_tokens: text(max_tokens),
    gate: text(gate),
    alias: text(body.alias),
    suffix: text(body.suffix),
    integrations: (body.integrations as Integration[] | undefined) ?? [],
    others: {
      ...(gates.length ? { gates } : {}),
      ...(body.metadata ? { metadata: body.metadata } : {}),
      ...(body.priority ? { priority: body.priority } : {}),
      ...(body.chat_template_kwargs ? { chat_template_kwargs: body.chat_template_kwargs } : {}),
    },
    rest: { ...rest, sampling: sampled, hyperparameters: { ...others, lora: adapter } },
  };
}
