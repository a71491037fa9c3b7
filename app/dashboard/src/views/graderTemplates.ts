// Graders to start from, graderFromTemplate for the fields that a file has.

const OF_ROWS = ["messages", "prompt", "completion", "teacher_responses", "tools"];

/** The fields that every row of a file has for graders to read, by the file's report. */
export function gradableFields(
  report: { rows?: number; item_fields?: Record<string, number> } | null | undefined,
): string[] {
  const everywhere = Object.entries(report?.item_fields ?? {}).filter(([, rows]) => rows === report?.rows);
  return everywhere.map(([name]) => name).filter((one) => !OF_ROWS.includes(one));
}

/** The field that most likely holds what is right. */
export function guessReferenceField(fields: string[]): string {
  return (
    fields.find((one) => /answer|reference|label|target|solution|expected/i.test(one)) ??
    fields[0] ??
    "reference_answer"
  );
}

type Grader = Record<string, unknown>;

export const TEMPLATES: { title: string; make: (reference: string) => Grader }[] = [
  {
    title: "The last number is right",
    make: (reference) => ({ type: "math", name: "answer", reference, answer: "last_number" }),
  },
  {
    title: "The expression is equal",
    make: (reference) => ({ type: "math", name: "answer", reference, answer: "expression" }),
  },
  {
    title: "The text is exactly that",
    make: (reference) => ({
      type: "string_check",
      name: "exact",
      input: "{{sample.output_text}}",
      operation: "eq",
      reference,
    }),
  },
  {
    title: "The text contains it",
    make: (reference) => ({
      type: "string_check",
      name: "contains",
      input: "{{sample.output_text}}",
      operation: "ilike",
      reference,
    }),
  },
  {
    title: "How alike the texts are",
    make: (reference) => ({
      type: "text_similarity",
      name: "alike",
      input: "{{sample.output_text}}",
      evaluation_metric: "rouge_l",
      reference,
    }),
  },
  {
    title: "It matches a pattern",
    make: () => ({ type: "regex", name: "pattern", pattern: "[0-9]+$", match: "search" }),
  },
  {
    title: "It is JSON of a shape",
    make: () => ({
      type: "json_schema",
      name: "shape",
      schema: { type: "object", required: ["answer"], properties: { answer: { type: "string" } } },
    }),
  },
  {
    title: "My own Python",
    make: (reference) => ({
      type: "python",
      name: "own",
      source: `def grade(sample, item):\n    return 1.0 if str(item["${/item\.([\w-]+)/.exec(reference)?.[1] ?? "reference_answer"}"]) in sample["output_text"] else 0.0`,
    }),
  },
  {
    title: "Several, by a formula",
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

/** A template for a file with these fields, as it stands in the form. */
export function graderFromTemplate(template: number, fields: string[]): string {
  return JSON.stringify(TEMPLATES[template]?.make(`{{item.${guessReferenceField(fields)}}}`), null, 2);
}
