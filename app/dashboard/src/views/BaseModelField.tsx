// The base model of a new job: those on the server, and those of the catalogue with their download.
import { useBaseModels } from "../baseModels";
import { Field } from "../components/FormFields";
import { modelFacts, Pull } from "./BaseModels";

interface BaseModelProps {
  value: string;
  set: (model: string) => void;
  /** Called when a download is complete. */
  changed: () => void;
}

export function BaseModelField({ value, set, changed }: BaseModelProps) {
  const { value: list, reload } = useBaseModels();
  const models = list?.data ?? [];
  const chosen = models.find(({ id }) => id === value);
  return (
    <Field label="Base model" id="model" path="model">
      {(described) => (
        <>
          <select id="model" value={value} onChange={(event) => set(event.currentTarget.value)} {...described}>
            {value && !chosen && <option key={value}>{value}</option>}
            {models.map((model) => (
              <option key={model.id} value={model.id}>
                {model.id}
                {model.is_pulled ? "" : " (not downloaded)"}
              </option>
            ))}
          </select>
          {list && chosen && !chosen.is_pulled && (
            <p class="soft">
              {modelFacts(chosen)}. The job downloads it first, or:{" "}
              <Pull {...{ model: chosen, list, reload }} done={changed} />
            </p>
          )}
        </>
      )}
    </Field>
  );
}
