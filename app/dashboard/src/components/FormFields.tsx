// Labelled form inputs with help and problems.
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { useProblem } from "./FormErrors";

/** Attributes of an input that link it to its problem and its help. */
interface Described {
  "aria-invalid": "true" | undefined;
  "aria-describedby": string | undefined;
}

interface FieldProps {
  label: string;
  id: string;
  /** Path of the value in the request; a problem with this path is shown here. */
  path?: string | undefined;
  problem?: string | null | undefined;
  help?: string | undefined;
  isShort?: boolean;
  children: ComponentChildren | ((described: Described) => ComponentChildren);
}

/** A label, its input, what is wrong with the value, and help. */
export function Field({ label, id, path, problem, help, isShort, children }: FieldProps) {
  const sent = useProblem(path);
  const shown = problem ?? sent;
  const ids = [shown ? `${id}-problem` : "", help ? `${id}-help` : ""].filter(Boolean).join(" ");
  const described: Described = { "aria-invalid": shown ? "true" : undefined, "aria-describedby": ids || undefined };
  return (
    <div class={isShort ? "field short" : "field"}>
      <label for={id}>{label}</label>
      {typeof children === "function" ? children(described) : children}
      {shown && (
        <p class="problem" id={`${id}-problem`}>
          ✕ {shown}
        </p>
      )}
      {help && (
        <p class="help" id={`${id}-help`}>
          <Marked text={help} />
        </p>
      )}
    </div>
  );
}

const PAGE = /docs\/([a-z-]+)\.md/;

/** Text whose parts in backticks are code, and whose pages of the documentation (docs/NAME.md) are links. */
export function Marked({ text }: { text: string }) {
  return (
    <>
      {text.split("`").map((part, index) =>
        index % 2 ? (
          <code key={index}>{part}</code>
        ) : (
          part.split(PAGE).map((piece, place) =>
            place % 2 ? (
              <a key={place} href={`/docs/${piece}.html`}>
                {piece} in the documentation
              </a>
            ) : (
              piece
            ),
          )
        ),
      )}
    </>
  );
}

interface TextProps {
  label: string;
  /** Accessible name, if the label alone is ambiguous. */
  name?: string;
  value: string;
  placeholder?: string;
  set: (value: string) => void;
  kind?: "text" | "url";
  /** Id of a datalist with suggestions. */
  list?: string;
  path?: string | undefined;
  problem?: string | null | undefined;
  help?: string | undefined;
  isRequired?: boolean;
  maxLength?: number;
}

export function TextField(props: TextProps) {
  const { label, name, value, placeholder, set, kind, list, path, problem, help, isRequired, maxLength } = props;
  const id = useId();
  return (
    <Field label={label} id={id} path={path} problem={problem} help={help}>
      {(described) => (
        <input
          id={id}
          type="text"
          inputMode={kind ?? "decimal"}
          aria-label={name}
          list={list}
          value={value}
          placeholder={placeholder}
          required={isRequired}
          maxLength={maxLength}
          onInput={(event) => set(event.currentTarget.value)}
          {...described}
        />
      )}
    </Field>
  );
}

interface NumberProps {
  label: string;
  value: number;
  max: number;
  set: (value: number) => void;
  path?: string;
}

export function NumberField({ label, value, max, set, path }: NumberProps) {
  const id = useId();
  const problem =
    value > max || value < 0 || !Number.isInteger(value) ? `Enter a whole number: from 0 to ${max}.` : null;
  return (
    <Field label={label} id={id} path={path} problem={problem} isShort>
      {(described) => (
        <input
          id={id}
          type="number"
          min={0}
          max={max}
          value={value}
          onInput={(event) => set(Number(event.currentTarget.value))}
          {...described}
        />
      )}
    </Field>
  );
}
