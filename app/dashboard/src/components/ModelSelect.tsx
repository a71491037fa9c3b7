// Chooses a model of this server: a base model, a trained one, a checkpoint or an alias.
import type { JSX } from "preact";
import { isBase, modelTitle } from "../modelNames";
import type { Model } from "../types";

interface SelectProps {
  label?: string;
  value: string;
  models: Model[];
  taken: string[];
  set: (model: string) => void;
  /** Further attributes of the `select`. */
  attributes?: JSX.HTMLAttributes<HTMLSelectElement>;
}

export function ModelSelect({ label, value, models, taken, set, attributes }: SelectProps) {
  const groups: [string, Model[]][] = [
    ["Base models", models.filter(isBase)],
    ["Trained models", models.filter((model) => !isBase(model) && model.step === null)],
    ["Checkpoints", models.filter((model) => !isBase(model) && model.step !== null)],
  ];
  const aliases = models.flatMap((model) => (isBase(model) ? [] : model.aliases));
  const isListed = models.some((model) => model.id === value) || aliases.includes(value);
  const option = (id: string, text: string) => (
    <option key={id} value={id} disabled={id !== value && taken.includes(id)}>
      {text}
    </option>
  );
  return (
    <select
      aria-label={label}
      title={value}
      value={value}
      onChange={(event) => set(event.currentTarget.value)}
      {...attributes}
    >
      {!isListed && option(value, value || "choose a model")}
      {groups.map(
        ([title, members]) =>
          members.length > 0 && (
            <optgroup key={title} label={title}>
              {members.map((model) => option(model.id, modelTitle(model.id)))}
            </optgroup>
          ),
      )}
      {aliases.length > 0 && <optgroup label="Aliases">{aliases.map((alias) => option(alias, `★ ${alias}`))}</optgroup>}
    </select>
  );
}
