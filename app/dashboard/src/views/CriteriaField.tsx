// The criteria of a new eval: graders, each with a name of its own.
import { ROW_FIELDS } from "../dataFile";
import type { SuggestedGrader } from "../types";
import { GraderField } from "./GraderField";
import { graderFromTemplate, graderText, readGrader, TEMPLATES } from "./graderTemplates";

const MAX_CRITERIA = 8;
const FIRST_TEMPLATE = TEMPLATES.findIndex(({ title }) => title === "Text is equal");

/** Returns a criterion as JSON, with a name that none of `others` has. */
export function newCriterion(others: string[], fields: string[]): string {
  const names = new Set(others.map((text) => readGrader(text)?.name));
  let number = others.length + 1;
  while (names.has(`criterion_${number}`)) number += 1;
  return graderText({ ...graderFromTemplate(FIRST_TEMPLATE, gradable(fields)), name: `criterion_${number}` });
}

/** Fields that graders compare answers with: not those of the row format. */
const gradable = (fields: string[]): string[] => fields.filter((name) => !ROW_FIELDS.includes(name));

interface Props {
  /** Graders as JSON. */
  values: string[];
  set: (values: string[]) => void;
  /** A training file, or "" for other ones. */
  file: string;
  /** Fields of the items. */
  fields: string[];
  suggested: SuggestedGrader | undefined;
}

export function CriteriaField({ values, set, file, fields, suggested }: Props) {
  return (
    <section aria-label="Criteria" class="form">
      <div>
        <h2>Criteria</h2>
        <p class="help">A row passes if its answer passes all criteria.</p>
      </div>
      {values.map((value, index) => (
        <div key={index} class="part">
          <GraderField
            legend={`Criterion ${index + 1}`}
            value={value}
            set={(changed) => set(values.with(index, changed))}
            file={file}
            fields={gradable(fields)}
            problem={undefined}
            path={`testing_criteria.${index}`}
            isValid={false}
            suggested={index === 0 ? suggested : undefined}
          />
          {values.length > 1 && (
            <button
              type="button"
              class="small"
              onClick={() => set(values.filter((_, place) => place !== index))}
              aria-label={`Remove criterion ${index + 1}`}
            >
              Remove
            </button>
          )}
        </div>
      ))}
      {values.length < MAX_CRITERIA && (
        <div>
          <button type="button" class="small" onClick={() => set([...values, newCriterion(values, fields)])}>
            Add a criterion
          </button>
        </div>
      )}
    </section>
  );
}
