// Grader templates for the fields of a file, at least one for each type.

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

export type Grader = Record<string, unknown>;

const ANSWER = "{{sample.output_text}}";
const check = (operation: string) => (reference: string) => ({
  ...{ type: "string_check", name: "answer", input: ANSWER, operation, reference },
});
const math = (answer: string) => (reference: string) => ({ type: "math", name: "answer", reference, answer });
const judged = (task: string) => (reference: string) => [
  { role: "system", content: task },
  { role: "user", content: `Right answer: ${reference}\n\nAnswer: ${ANSWER}` },
];

export const TEMPLATES: { title: string; make: (reference: string) => Grader }[] = [
  { title: "Last number is correct", make: math("last_number") },
  { title: "Expression is equal", make: math("expression") },
  { title: "Text is equal", make: check("eq") },
  { title: "Text contains the reference", make: check("ilike") },
  {
    title: "Text similarity",
    make: (reference) => ({
      ...{ type: "text_similarity", name: "answer", input: ANSWER, evaluation_metric: "rouge_l", reference },
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
    title: "Judge that scores from 0 to 1",
    make: (reference) => ({
      type: "score_model",
      name: "judge",
      model: "",
      input: judged("Score how well the answer agrees with the right answer: 1 is full agreement, 0 is none.")(
        reference,
      ),
    }),
  },
  {
    title: "Judge that chooses a label",
    make: (reference) => ({
      type: "label_model",
      name: "judge",
      model: "",
      labels: ["right", "wrong"],
      passing_labels: ["right"],
      input: judged("Say whether the answer agrees with the right answer.")(reference),
    }),
  },
  { title: "Your own server", make: () => ({ type: "endpoint", name: "server", url: "https://" }) },
  { title: "The verifier in the row", make: () => ({ type: "reasoning_gym", name: "answer" }) },
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

/** Returns a template for a file with these fields. */
export function graderFromTemplate(template: number, fields: string[]): Grader {
  return TEMPLATES[template]?.make(`{{item.${guessReferenceField(fields)}}}`) ?? {};
}

/** Returns a grader of another type: its template, with the texts of the old one that it has too. */
export function withType(old: Grader, type: string, fields: string[]): Grader {
  const template = TEMPLATES.findIndex(({ make }) => make("").type === type);
  const made = template < 0 ? { type } : graderFromTemplate(template, fields);
  const kept = ["name", "reference"].filter((name) => name in made && typeof old[name] === "string");
  return { ...made, ...Object.fromEntries(kept.map((name) => [name, old[name]])) };
}

/** Returns a grader as JSON for people. */
export const graderText = (grader: unknown): string => JSON.stringify(grader, null, 2);

/** Returns the grader that a JSON text is; null if it is none. */
export function readGrader(text: string): Grader | null {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Grader) : null;
  } catch {
    return null;
  }
}

/** Whether a grader calls another server for each answer, which may cost money. */
export function callsServer(grader: Grader | null): boolean {
  const parts = grader?.type === "multi" ? Object.values((grader.graders as Record<string, Grader>) ?? {}) : [grader];
  return parts.some((part) => ["score_model", "label_model", "endpoint"].includes(String(part?.type)));
}
