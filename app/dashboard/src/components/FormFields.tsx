// Labelled form inputs.
import type { ComponentChildren } from "preact";

export function Field(props: { label: string; id: string; children: ComponentChildren }) {
  return (
    <div class="field">
      <label for={props.id}>{props.label}</label>
      {props.children}
    </div>
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
}

export function TextField({ label, name, value, placeholder, set, kind, list }: TextProps) {
  return (
    <label class="field">
      <span>{label}</span>
      <input
        type="text"
        inputMode={kind ?? "decimal"}
        aria-label={name}
        list={list}
        value={value}
        placeholder={placeholder}
        onInput={(event) => set(event.currentTarget.value)}
      />
    </label>
  );
}

export function NumberField(props: { label: string; value: number; max: number; set: (value: number) => void }) {
  return (
    <label class="field short">
      <span>{props.label}</span>
      <input
        type="number"
        min={0}
        max={props.max}
        value={props.value}
        onInput={(event) => props.set(Number(event.currentTarget.value))}
      />
    </label>
  );
}
