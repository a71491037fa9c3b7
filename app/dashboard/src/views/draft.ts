// What stands in the form, and the request that it means.

export type MethodName = "gft" | "supervised" | "reinforcement" | "dft";

export interface Draft {
  model: string;
  training_file: string;
  validation_file: string;
  method: MethodName;
  grader: string;
  expert: number;
  teacher: number;
  self: number;
  n_epochs: string;
  max_steps: string;
  batch_size: string;
  learning_rate_multiplier: string;
  lora_r: string;
  tau: string;
  max_tokens: string;
  seed: string;
  gate: string;
  alias: string;
  suffix: string;
  /** Settings that the form has no field for, kept when a job is cloned. */
  rest: Record<string, unknown>;
}

export const METHODS: { name: MethodName; title: string; text: string }[] = [
  { name: "gft", title: "GFT", text: "compares expert, teacher and own answers: learns from examples and from its own tries" },
  { name: "supervised", title: "Supervised", text: "imitates the examples" },
  { name: "reinforcement", title: "Reinforcement", text: "learns from its own graded tries alone" },
  { name: "dft", title: "DFT", text: "imitates, each token weighted by its probability" },
];

const GRADER = {
  type: "math",
  name: "answer",
  reference: "{{item.reference_answer}}",
  answer: "last_number",
};

export const EMPTY: Draft = {
  model: "",
  training_file: "",
  validation_file: "",
  method: "gft",
  grader: JSON.stringify(GRADER, null, 2),
  expert: 1,
  teacher: 3,
  self: 4,
  n_epochs: "",
  max_steps: "",
  batch_size: "",
  learning_rate_multiplier: "",
  lora_r: "",
  tau: "",
  max_tokens: "",
  seed: "",
  gate: "",
  alias: "",
  suffix: "",
  rest: {},
};

type Plain = Record<string, unknown>;

/** A number if it is one, else as it is, for the server to refuse by its own words. */
const value = (text: string): unknown => (text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text.trim());
const filled = (pairs: Record<string, string>): Plain =>
  Object.fromEntries(Object.entries(pairs).flatMap(([key, text]) => (text.trim() ? [[key, value(text)]] : [])));
const object = (found: unknown): Plain => (found !== null && typeof found === "object" ? (found as Plain) : {});

export function requestOf(draft: Draft): { body: Plain; error?: string } {
  const isGroup = draft.method === "gft" || draft.method === "reinforcement";
  let grader: unknown;
  let error: string | undefined;
  if (isGroup) {
    try {
      grader = JSON.parse(draft.grader);
    } catch (problem) {
      error = `This is no JSON: ${(problem as Error).message}`;
    }
  }
  const rest = draft.rest;
  const lora = { ...object(object(rest.hyperparameters).lora), ...filled({ r: draft.lora_r }) };
  const hyperparameters: Plain = {
    ...object(rest.hyperparameters),
    ...filled({
      n_epochs: draft.n_epochs,
      max_steps: draft.max_steps,
      batch_size: draft.batch_size,
      learning_rate_multiplier: draft.learning_rate_multiplier,
    }),
    ...(Object.keys(lora).length ? { lora } : {}),
  };
  const sampling = { ...object(rest.sampling), ...filled({ max_tokens: draft.max_tokens }) };
  const group = draft.method === "gft" ? { expert: draft.expert, teacher: draft.teacher, self: draft.self } : { self: draft.self };
  const settings: Plain = {
    ...rest,
    ...(isGroup ? { grader: grader ?? null, group } : {}),
    ...(draft.method === "gft" ? filled({ tau: draft.tau }) : {}),
    ...(Object.keys(sampling).length ? { sampling } : {}),
    ...(Object.keys(hyperparameters).length ? { hyperparameters } : {}),
  };
  const body: Plain = {
    model: draft.model,
    training_file: draft.training_file,
    ...(draft.validation_file ? { validation_file: draft.validation_file } : {}),
    method: { type: draft.method, [draft.method]: settings },
    ...filled({ seed: draft.seed }),
    ...(draft.suffix.trim() ? { suffix: draft.suffix.trim() } : {}),
    ...(draft.gate.trim() ? { gates: [draft.gate.trim()] } : {}),
    ...(draft.alias.trim() ? { alias: draft.alias.trim() } : {}),
  };
  return error === undefined ? { body } : { body, error };
}

const text = (found: unknown): string => (found === undefined || found === null || found === "auto" ? "" : String(found));

/** The form of a job that exists; its seed is drawn anew. */
export function draftOf(body: Record<string, unknown>): Draft {
  const method = object(body.method);
  const name = String(method.type) as MethodName;
  const { grader, group, tau, sampling, hyperparameters, ...rest } = object(method[name]);
  const { max_tokens, ...sampled } = object(sampling);
  const { n_epochs, max_steps, batch_size, learning_rate_multiplier, lora, ...others } = object(hyperparameters);
  const { r, ...adapter } = object(lora);
  const mix = object(group);
  return {
    ...EMPTY,
    model: text(body.model),
    training_file: text(body.training_file),
    validation_file: text(body.validation_file),
    method: name,
    grader: grader === undefined ? EMPTY.grader : JSON.stringify(grader, null, 2),
    expert: Number(mix.expert ?? 1),
    teacher: Number(mix.teacher ?? 3),
    self: Number(mix.self ?? 4),
    n_epochs: text(n_epochs),
    max_steps: text(max_steps),
    batch_size: text(batch_size),
    learning_rate_multiplier: text(learning_rate_multiplier),
    lora_r: text(r),
    tau: text(tau),
    max_tokens: text(max_tokens),
    gate: text((body.gates as string[] | undefined)?.[0]),
    alias: text(body.alias),
    suffix: text(body.suffix),
    rest: { ...rest, sampling: sampled, hyperparameters: { ...others, lora: adapter } },
  };
}
