// The server's validation of a request while it is written.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, JOBS, post } from "../api";
import { number, plural } from "../format";
import type { Problem } from "../formProblems";
import type { Validation } from "../types";
import { RowsUsed } from "./RowUse";

const PAUSE_MS = 350;

export interface Checked {
  /** The validated request, as text. */
  of: string;
  validation: Validation;
}

/** The server's validation of a request, requested a moment after the last change. */
export function useValidation(body: unknown): Checked | undefined {
  const [checked, setChecked] = useState<Checked>();
  const text = body === null ? null : JSON.stringify(body);
  useEffect(() => {
    if (text === null) {
      setChecked(undefined);
      return;
    }
    let current = true;
    const timer = setTimeout(() => {
      post<Validation>(`${JOBS}/validate`, JSON.parse(text)).then(
        (validation) => current && setChecked({ of: text, validation }),
        (error: ApiError) => {
          const errors = [{ code: error.code, message: error.message, param: error.param }];
          if (current)
            setChecked({
              of: text,
              validation: { object: "fine_tuning.job.validation", valid: false, errors, warnings: [], plan: null },
            });
        },
      );
    }, PAUSE_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);
  return checked;
}

/** The problems without a field. */
export function OtherProblems({ problems }: { problems: Problem[] }) {
  if (!problems.length) return null;
  return (
    <ul class="notice bad plain" role="alert">
      {problems.map(({ message, param }) => (
        <li key={message}>
          {param && <code>{param}</code>} {message}
        </li>
      ))}
    </ul>
  );
}

export function ValidationResult({ checked }: { checked: Validation | undefined }) {
  if (!checked) return null;
  const { plan, valid, errors } = checked;
  return (
    <>
      {valid ? (
        <p class={`notice ${checked.warnings.length ? "hold" : "good"}`} role="status">
          {checked.warnings.length ? "⚠ Valid, with warnings." : "✓ Valid."}{" "}
          {plan
            ? `${plural(plan.rows, "row")}, ${plural(plan.total_steps, "step")}, learning rate ${number(plan.learning_rate)}.`
            : "The plan appears when the file is validated."}
        </p>
      ) : (
        <p class="notice bad" role="status">
          ✕ {plural(errors.length, "setting")} to fix before the job can be created.
        </p>
      )}
      <RowsUsed of={checked} />
      {valid && checked.warnings.length > 0 && (
        <ul class="notice hold plain" role="status">
          {checked.warnings.map(({ message }) => (
            <li key={message}>⚠ {message}</li>
          ))}
        </ul>
      )}
    </>
  );
}
