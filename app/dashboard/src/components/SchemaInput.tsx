// An input for one field of an OpenAPI schema, with its default, help and range.
import { useId, useState } from "preact/hooks";
import { format, parse, problemOf, type SchemaField } from "../schemaFields";
import { Field } from "./FormFields";

const LONG_ROWS = 12;

interface Props {
  field: SchemaField;
  value: unknown;
  set: (value: unknown) => void;
  /** Path of the value in the request. */
  path: string;
  /** Accessible name, if the title alone is ambiguous. */
  name?: string;
  placeholder?: string;
  /** Shows the help only to screen readers. */
  isTerse?: boolean;
}

export function SchemaInput({ field, value, set, path, name, placeholder, isTerse }: Props) {
  const id = useId();
  const { kind } = field;
  // While the user types, the text may differ from how the value would be written: "0." is 0.
  const [draft, setDraft] = useState(() => format(kind, value));
  const isCurrent = JSON.stringify(parse(kind, draft)) === JSON.stringify(value);
  const text = isCurrent ? draft : format(kind, value);
  const change = (event: { currentTarget: { value: string } }) => {
    setDraft(event.currentTarget.value);
    set(parse(kind, event.currentTarget.value));
  };
  const problem = problemOf(field, value);
  const common = { id, "aria-label": name, value: text };
  const isArea = kind === "long" || kind === "pairs" || kind === "json";
  return (
    <Field
      label={field.title}
      id={id}
      path={path}
      problem={problem === "Required." ? undefined : problem}
      help={isTerse ? undefined : field.help || undefined}
    >
      {(described) =>
        kind === "choice" || kind === "boolean" ? (
          <select {...common} onChange={change} {...described}>
            {(!field.isRequired || field.byDefault !== "") && <option value="">{defaultOption(field)}</option>}
            {kind === "boolean" ? (
              <>
                <option value="true">yes</option>
                <option value="false">no</option>
              </>
            ) : (
              field.choices.map((choice) => <option key={choice}>{choice}</option>)
            )}
          </select>
        ) : isArea ? (
          <textarea
            {...common}
            rows={Math.min(LONG_ROWS, Math.max(kind === "long" ? 1 : 2, text.split("\n").length))}
            spellcheck={false}
            placeholder={placeholder ?? (kind === "pairs" ? "name=value" : field.byDefault)}
            onInput={change}
            {...described}
          />
        ) : (
          <input
            {...common}
            type="text"
            inputMode={kind === "integer" ? "numeric" : kind === "number" ? "decimal" : "text"}
            placeholder={placeholder ?? field.byDefault}
            onInput={change}
            {...described}
          />
        )
      }
    </Field>
  );
}

function defaultOption({ kind, byDefault }: SchemaField): string {
  if (!byDefault) return "none";
  return `default: ${kind === "boolean" ? (byDefault === "true" ? "yes" : "no") : byDefault}`;
}
