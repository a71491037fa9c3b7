// The values of the forms of a new eval and of a new run, and the requests that they send.
import type { Problem } from "../formProblems";
import { readGrader } from "./graderTemplates";

type Plain = Record<string, unknown>;

/** What the first row of a file shows about all rows. */
export interface RowShape {
  /** Fields of the items. */
  fields: string[];
  /** Whether the lines are `{"item": ...}`; otherwise each row is the item, and has its own messages. */
  hasItems: boolean;
  /** Whether the rows have answers to grade. */
  hasAnswers: boolean;
}

export interface RunForm {
  file: string;
  /** Whether the answers in the file are graded, so that no model answers; by default if the file has answers. */
  usesStored: boolean | undefined;
  models: string[];
  /** Address of another server, and its model, which answers besides `models`. */
  server: string;
  serverModel: string;
  /** Message to the model, with fields of the item; empty for the row's own messages. By default it follows the file. */
  prompt: string | undefined;
  temperature: string;
  max_completion_tokens: string;
  seed: string;
}

export const EMPTY_RUN: RunForm = {
  file: "",
  usesStored: undefined,
  models: [""],
  server: "",
  serverModel: "",
  prompt: undefined,
  temperature: "0",
  max_completion_tokens: "256",
  seed: "",
};

type WholeRun = RunForm & { usesStored: boolean; prompt: string };

/** Returns the form with the values that follow from its file. */
export function withDefaults(form: RunForm, shape: RowShape | undefined): WholeRun {
  const prompt = form.prompt ?? (shape?.hasItems ? guessPrompt(shape.fields) : "");
  return { ...form, prompt, usesStored: form.usesStored ?? shape?.hasAnswers ?? false };
}

/** Path of the field with the model of another server, among those of the models. */
export const SERVER = "server";
const SAMPLING = ["temperature", "max_completion_tokens", "seed"] as const;

/** Parses a number; other text is kept, so that the server reports it. */
const parsed = (text: string): unknown => (Number.isNaN(Number(text)) ? text.trim() : Number(text));

/** Returns the body of a new eval. `criteria` are graders as JSON, `fields` those of the file's items. */
export function evalRequest(name: string, criteria: string[], fields: string[]): { body: Plain; problems: Problem[] } {
  const graders = criteria.map(readGrader);
  const problems = graders.flatMap((grader, index) =>
    grader ? [] : [{ param: `testing_criteria.${index}`, message: "This is no JSON object." }],
  );
  // Without known fields, criteria may read any: the run checks them against the rows.
  const properties = fields.length ? { properties: Object.fromEntries(fields.map((field) => [field, {}])) } : {};
  const body = {
    ...(name.trim() ? { name: name.trim() } : {}),
    data_source_config: {
      type: "custom",
      item_schema: { type: "object", ...properties },
      include_sample_schema: true,
    },
    testing_criteria: graders,
  };
  return { body, problems };
}

/** Whether the form names another server or its model. */
const asksServer = (form: RunForm): boolean => Boolean(form.server.trim() || form.serverModel.trim());

/** Returns the chosen models of this server. One is required if no other server answers. */
function ownModels(form: RunForm): string[] {
  return asksServer(form) ? form.models.filter(Boolean) : form.models;
}

/** Returns the body of each new run: one for each model, or one for the answers in the file. */
export function runRequests(form: WholeRun): Plain[] {
  const source = { type: "file_id", id: form.file };
  if (form.usesStored) return [{ name: "stored answers", data_source: { type: "jsonl", source } }];
  const sampling = SAMPLING.flatMap((field) => (form[field].trim() ? [[field, parsed(form[field])]] : []));
  const template = [{ role: "user", content: form.prompt }];
  const answering: Plain[] = ownModels(form).map((model) => ({ model }));
  if (asksServer(form)) answering.push({ model: form.serverModel.trim(), base_url: form.server.trim() });
  return answering.map((model) => ({
    data_source: {
      type: "completions",
      source,
      ...model,
      ...(form.prompt.trim() ? { input_messages: { type: "template", template } } : {}),
      sampling_params: Object.fromEntries(sampling) as Plain,
    },
  }));
}

/** Returns what is missing in the form of a run. */
export function runProblems(form: WholeRun, shape: RowShape | undefined): Problem[] {
  const problems: Problem[] = [];
  const add = (param: string, message: string) => problems.push({ param, message });
  if (!form.file) add("data_source.source", "Choose a file, or upload one.");
  if (form.usesStored) return problems;
  for (const [index, model] of ownModels(form).entries())
    if (!model) add(`data_source.model.${index}`, "Choose a model.");
  if (asksServer(form)) {
    if (!form.server.trim()) add("data_source.base_url", "Write the server's address.");
    if (!form.serverModel.trim()) add(`data_source.model.${SERVER}`, "Write the name of the server's model.");
  }
  if (shape?.hasItems && !form.prompt.trim())
    add("data_source.input_messages", "The rows have no messages. Write what the model is sent.");
  return problems;
}

/** Returns a problem of a run at the field of its model, of which the form has several. */
export function problemOfRun(problem: Problem, request: Plain, form: RunForm): Problem {
  if (problem.param !== "data_source.model") return problem;
  const { model, base_url } = request.data_source as { model: string; base_url?: string };
  return { ...problem, param: `data_source.model.${base_url ? SERVER : form.models.indexOf(model)}` };
}

/** Fills the form of a new run from an earlier one, without its model: only runs on the same rows can be compared. */
export function runFormFrom(dataSource: Plain): RunForm {
  const { source, input_messages, sampling_params } = dataSource as Record<string, Plain | undefined>;
  const template = (input_messages?.template ?? []) as { role: string; content: unknown }[];
  const prompt = template.length === 1 && typeof template[0]?.content === "string" ? template[0].content : undefined;
  const shown = (field: string) => (sampling_params?.[field] === undefined ? "" : String(sampling_params[field]));
  return {
    ...EMPTY_RUN,
    file: source?.type === "file_id" ? String(source.id) : "",
    prompt,
    ...(sampling_params
      ? {
          temperature: shown("temperature"),
          max_completion_tokens: shown("max_completion_tokens"),
          seed: shown("seed"),
        }
      : {}),
  };
}

/** Returns the shape of a file from its first row. */
export function rowShape(row: Plain): RowShape {
  const hasItems = "item" in row && Object.keys(row).every((name) => name === "item" || name === "sample");
  const item = (hasItems ? (row.item ?? {}) : row) as Plain;
  return { fields: Object.keys(item), hasItems, hasAnswers: hasItems && Boolean(row.sample) };
}

/** Returns a prompt for items without messages: the field that most likely is the question. */
export function guessPrompt(fields: string[]): string {
  const question =
    fields.find((name) => /question|prompt|input|text|problem/i.test(name)) ??
    fields.find((name) => !/answer|reference|label|target|solution|expected|^id$/i.test(name));
  return question ? `{{item.${question}}}` : "";
}
