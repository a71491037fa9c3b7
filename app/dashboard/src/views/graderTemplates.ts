// Grader templates for the fields of a file.

import { ROW_FIELDS } from "../dataFile";

/** Returns the fields that all rows of a file have, according to its report, except those of the row format. */
export function gradableFields(
  report: { rows?: number; item_fields?: Record<string, number> } | null | undefined,
): string[] {
  const everywhere = Object.entries(report?.item_fields ?? {}).filter(([, rows]) => rows === report?.rows);
  return everywhere.map(([name]) => name).filter((name) => !ROW_FIELDS.includes(name));
}

/** Returns the field that most likely holds the reference answer. */
export function guessReferenceField(fields: string[]): string {
  return (
    fields.find((name) => /answer|reference|label|target|solution|expected/i.test(name)) ??
    fields[0] ??
    "reference_answer"
  );
}

type Grader = Record<string, unknown>;

export const TEMPLATES: { title: string; make: (reference: string) => Grader }[] = [
  {
    title: "Last number is correct",
    make: (reference) => ({ type: "math", name: "answer", reference, answer: "last_number" }),
  },
  {
    title: "Expression is equal",
    make: (reference) => ({ type: "math", name: "answer", reference, answer: "expression" }),
  },
  {
    title: "Text is equal",
    make: (reference) => ({
      type: "string_check",
      name: "exact",
      input: "{{sample.output_text}}",
      operation: "eq",
      reference,
    }),
  },
  {
    title: "Text contains the reference",
    make: (reference) => ({
      type: "string_check",
      name: "contains",
      input: "{{sample.output_text}}",
      operation: "ilike",
      reference,
    }),
  },
  {
    title: "Similarity of texts",
    make: (reference) => ({
      type: "text_similarity",
      name: "alike",
      input: "{{sample.output_text}}",
      evaluation_metric: "rouge_l",
      reference,
    }),
  },
  {
    title: "Text matches a pattern",
    make: () => ({ type: "regex", name: "pattern", pattern: "[0-9]+$", match: "search" }),
  },
  {
    title: "Text is JSON with a schema",
    make: () => ({
      type: "json_schema",
      name: "shape",
      schema: { type: "object", required: ["answer"], properties: { answer: { type: "string" } } },
    }),
  },
  {
    title: "Custom Python",
    make: (reference) => ({
      type: "python",
      name: "own",
      source: `def grade(sample, item):\n    return 1.0 if str(item["${/item\.([\w-]+)/.exec(reference)?.[1] ?? "reference_answer"}"]) in sample["output_text"] else 0.0`,
    }),
  },
  {
    title: "Several graders combined",
    make: (reference) => ({
      type: "multi",
      name: "both",
      graders: {
        right: { type: "math", name: "right", reference, answer: "last_number" },
        short: {
          type: "python",
          name: "short",
          source: 'def grade(sample, item):\n    return max(0.0, 1 - len(sample["output_text"]) / 500)',
        },
      },
      calculate_output: "0.9 * right + 0.1 * short",
    }),
  },
];

/** Returns a template as JSON text, for a file with these fields. */
export function graderFromTemplate(template: number, fields: string[]): string {
  return JSON.stringify(TEMPLATES[template]?.make(`{{item.${guessReferenceField(fields)}}}`), null, 2);
}
