// A table. On phones each row is a card, with the name of its column before each value.
import type { ComponentChildren } from "preact";

interface DataTableProps {
  label: string;
  columns: string[];
  /** Columns of numbers, which follow the others. */
  figures?: string[];
  /** Name of a last column of buttons; only screen readers get its heading. */
  actions?: string;
  /** Class of the table. */
  kind?: string;
  /** The rows. */
  children: ComponentChildren;
}

export function DataTable({ label, columns, figures = [], actions, kind = "", children }: DataTableProps) {
  const labels = Object.fromEntries([...columns, ...figures].map((name, at) => [`--label-${at + 1}`, `"${name}"`]));
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table class={`data ${kind}`} style={labels}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column}>{column}</th>
            ))}
            {figures.map((column) => (
              <th key={column} class="figure">
                {column}
              </th>
            ))}
            {actions && (
              <th>
                <span class="hidden">{actions}</span>
              </th>
            )}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
