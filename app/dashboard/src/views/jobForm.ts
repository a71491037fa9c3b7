// The values of the new-job form, and their conversion to and from a request.

import { type SchemaField, valueAt, withValue } from "../schemaFields";
import type { Integration } from "./trackers";

type Plain = Record<string, unknown>;
export type MethodName = "gft" | "supervised" | "reinforcement" | "dft" | "dpo";

/** Settings of the teacher model; without a model there is none. */
export interface TeacherForm {
  model: string;
  base_url: string;
  temperature: string;
  tokens: string;
  requests: string;
}

export interface JobForm {
  model: string;
  training_file: string;
  validation_file: string;
  test_file: string;
  method: MethodName;
  /** JSON of the grader. */
  grader: string;
  /** Whether a method without rewards grades the held-out answers. */
  gradesHeldOut: boolean;
  expert: number;
  teacher: number;
  self: number;
  teacher_settings: TeacherForm;
  integrations: Integration[];
  /** All other settings, in the form of the request. A method sends only those that it has. */
  settings: Plain;
  /** All other fields of the request. */
  job: Plain;
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

/** Fields of the request that have an input of their own in the form. */
export const OWN_INPUTS = [
  ...["model", "training_file", "validation_file", "test_file", "method", "integrations", "gft"],
  ...["grader", "group", "teacher.model", "teacher.base_url", "teacher.budget", "teacher.sampling.temperature"],
];

const GRADER = {
  type: "math",
  name: "answer",
  reference: "{{item.reference_answer}}",
  answer: "last_number",
};

export const NO_TEACHER: TeacherForm = { model: "", base_url: "", temperature: "", tokens: "", requests: "" };

export const EMPTY_FORM: JobForm = {
  model: "",
  training_file: "",
  validation_file: "",
  test_file: "",
  method: "gft",
  grader: JSON.stringify(GRADER, null, 2),
  gradesHeldOut: false,
  expert: 1,
  teacher: 3,
  self: 4,
  teacher_settings: NO_TEACHER,
  integrations: [],
  settings: {},
  job: {},
};

export const isGroupMethod = (method: MethodName): boolean => method === "gft" || method === "reinforcement";

/** Whether the job trains only the demonstrations that pass its grader. */
export const gradesDemonstrations = ({ method, settings }: JobForm): boolean =>
  ["gft", "supervised", "dft"].includes(method) && settings.demonstrations === "graded";

/** Returns the form with another choice of demonstrations. */
export function withDemonstrations(form: JobForm, choice: "all" | "graded"): JobForm {
  return { ...form, settings: withValue(form.settings, "demonstrations", choice === "all" ? undefined : choice) };
}

/** Parses a number; other text is kept, so that the server's validation reports it. */
const value = (text: string): unknown =>
  text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text.trim();
const filled = (pairs: Record<string, string>): Plain =>
  Object.fromEntries(Object.entries(pairs).flatMap(([key, text]) => (text.trim() ? [[key, value(text)]] : [])));
const object = (item: unknown): Plain => (item !== null && typeof item === "object" ? (item as Plain) : {});

/** Returns the values of these fields only. */
const only = (values: Plain, fields: SchemaField[]): Plain =>
  fields.reduce((kept, { path }) => withValue(kept, path, valueAt(values, path)), {} as Plain);

/** `fields` are the settings of the form's method, from the server's schema. */
export function requestFromForm(form: JobForm, fields: SchemaField[]): { body: Plain; error?: string } {
  const isGroup = isGroupMethod(form.method);
  const isGraded = isGroup || form.gradesHeldOut || gradesDemonstrations(form);
  let grader: unknown;
  let error: string | undefined;
  if (isGraded) {
    try {
      grader = JSON.parse(form.grader);
    } catch (problem) {
      error = `Invalid JSON: ${(problem as Error).message}`;
    }
  }
  const group =
    form.method === "gft" ? { expert: form.expert, teacher: form.teacher, self: form.self } : { self: form.self };
  const { teacher, ...others } = only(form.settings, fields);
  const settings: Plain = {
    ...(isGraded ? { grader: grader ?? null } : {}),
    ...(isGroup ? { group } : {}),
    ...(form.method === "gft" ? teacherOf(form, object(teacher)) : {}),
    ...others,
  };
  const body: Plain = {
    model: form.model,
    training_file: form.training_file,
    ...(form.validation_file ? { validation_file: form.validation_file } : {}),
    ...(form.validation_file && form.test_file ? { test_file: form.test_file } : {}),
    method: { type: form.method, [form.method]: settings },
    ...form.job,
    ...(form.integrations.length ? { integrations: form.integrations } : {}),
  };
  return error === undefined ? { body } : { body, error };
}

/** Leaves the teacher out if no group has teacher answers. */
function teacherOf({ teacher_settings, teacher }: JobForm, others: Plain): Plain {
  if (!teacher_settings.model.trim() || teacher === 0) return {};
  const sampling = { ...object(others.sampling), ...filled({ temperature: teacher_settings.temperature }) };
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
  const { tokens, requests } = object(teacher.budget);
  const temperature = text(object(teacher.sampling).temperature);
  const server = { model: text(teacher.model), base_url: text(teacher.base_url) };
  return { ...server, temperature, tokens: text(tokens), requests: text(requests) };
}

const text = (item: unknown): string => (item === undefined || item === null || item === "auto" ? "" : String(item));

/** Returns a copy without unset values. */
function withoutUnset(values: Plain): Plain {
  const set = Object.entries(values).flatMap(([name, item]) => {
    if (item === null || item === "auto") return [];
    if (typeof item !== "object" || Array.isArray(item)) return [[name, item]];
    const inner = withoutUnset(item as Plain);
    return Object.keys(inner).length ? [[name, inner]] : [];
  });
  return Object.fromEntries(set) as Plain;
}

/** Fills the form from the request of an existing job, without its seed: the clone gets a new one. */
export function formFromRequest(body: Record<string, unknown>): JobForm {
  const { model, training_file, validation_file, test_file, method, integrations, seed: _, ...job } = body;
  const name = String(object(method).type) as MethodName;
  const { grader, group, teacher, ...rest } = object(object(method)[name]);
  const { temperature: __, ...sampling } = object(object(teacher).sampling);
  const mix = object(group);
  return {
    ...EMPTY_FORM,
    model: text(model),
    training_file: text(training_file),
    validation_file: text(validation_file),
    test_file: text(test_file),
    method: name,
    grader: grader ? JSON.stringify(grader, null, 2) : EMPTY_FORM.grader,
    gradesHeldOut: Boolean(grader),
    expert: Number(mix.expert ?? 1),
    teacher: Number(mix.teacher ?? 3),
    self: Number(mix.self ?? 4),
    teacher_settings: teacherFromRequest(object(teacher)),
    integrations: (integrations as Integration[] | undefined) ?? [],
    settings: withoutUnset({ ...rest, teacher: { sampling } }),
    job: withoutUnset(job),
  };
}
