// The models of the columns: chosen, added, removed.
import { ModelSelect } from "../components/ModelSelect";
import { modelPage, modelTitle } from "../modelNames";
import type { Model } from "../types";

export const MAX_COLUMNS = 4;

interface Props {
  models: Model[];
  columns: string[];
  setColumns: (columns: string[]) => void;
}

export function ColumnHeads({ models, columns, setColumns }: Props) {
  return (
    <div class="columns heads">
      {columns.map((column, index) => (
        <div key={column} class="head">
          <ModelSelect
            label={`Model of column ${index + 1}`}
            value={column}
            models={models}
            taken={columns}
            set={(model) => setColumns(columns.with(index, model))}
          />
          <a
            class="button small"
            href={modelPage(column)}
            aria-label={`Page of ${modelTitle(column)}`}
            title="Model page"
          >
            ↗
          </a>
          {columns.length > 1 && (
            <button
              type="button"
              class="small"
              aria-label={`Remove ${modelTitle(column)}`}
              onClick={() => setColumns(columns.filter((other) => other !== column))}
            >
              ✕
            </button>
          )}
        </div>
      ))}
    </div>
  );
}

export function AddColumn({ models, columns, setColumns }: Props) {
  const free = models.filter((model) => !columns.includes(model.id));
  if (columns.length >= MAX_COLUMNS || !free.length) return null;
  return (
    <button type="button" onClick={() => setColumns([...columns, nextModel(free, models, columns)])}>
      + Add a model
    </button>
  );
}

/** Returns the model to add: of the same base as the columns if there is one. */
function nextModel(free: Model[], models: Model[], columns: string[]): string {
  const bases = new Set(
    models.filter((model) => columns.includes(model.id)).map((model) => model.base_model ?? model.id),
  );
  const related = free.find((model) => bases.has(model.base_model ?? model.id));
  return (related ?? (free[0] as Model)).id;
}
