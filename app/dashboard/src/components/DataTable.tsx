// A table that scrolls sideways on narrow screens.
import type { ComponentChildren } from "preact";

interface DataTableProps {
  label: string;
  columns: string[];
  /** Columns of numbers, which follow the others. */
  figures?: string[];
  /** Name of a last column of buttons; only screen readers get its heading. */
  actions?: string;
  /** The rows. */
  children: ComponentChildren;
}

export function DataTable({ label, columns, figures = [], actions, children }: DataTableProps) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table>
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
