// Names of models for people, and links to their pages.
import type { Job, Model } from "./types";

interface ModelName {
  /** The suffix, or the end of the job's id for a model without one; the whole name of a base model. */
  title: string;
  /** What distinguishes models with the same suffix; empty for a base model. */
  detail: string;
}

/** Splits `ft:<base>:<project>:<suffix>:<8 characters>[:ckpt-step-<n>]`. */
export function nameParts(id: string): ModelName {
  const [kind, , , suffix, mark = "", step] = id.split(":");
  if (kind !== "ft" || suffix === undefined) return { title: id, detail: "" };
  const at = step ? `step ${step.replace("ckpt-step-", "")}` : "";
  return { title: suffix || mark, detail: [at, suffix ? mark : ""].filter(Boolean).join(" · ") };
}

export const modelTitle = (id: string): string => Object.values(nameParts(id)).filter(Boolean).join(" · ");
export const modelPage = (id: string): string => `/ui/models/${encodeURIComponent(id)}`;
export const modelPath = (id: string): string => `/v1/models/${encodeURIComponent(id)}`;

export const isBase = (model: Model): boolean => !model.base_model;

/** The base model that a job trains, also if it starts from a trained model. */
export const baseOf = ({ model }: Job): string => (model.startsWith("ft:") ? (model.split(":")[1] ?? model) : model);

/** A row of a job's files as the first prompt of the playground. */
export interface PromptSource {
  job: string;
  part: "training" | "heldout";
  /** The line in the file; the first row if undefined. */
  row?: number | undefined;
}

/** Returns the address of the playground with these models, in columns from left to right. */
export function playgroundPath(models: (string | null | undefined)[], source?: Partial<PromptSource>): string {
  const search = new URLSearchParams([...new Set(models)].flatMap((model) => (model ? [["model", model]] : [])));
  for (const [name, value] of Object.entries(source ?? {})) if (value !== undefined) search.set(name, String(value));
  return `/ui/playground?${search}`;
}
