// A table of any length that renders only the rows in or near the viewport. Narrow screens show the cells of a row in several
// lines.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

/** Rows rendered above and below the viewport. */
const OVERSCAN_ROWS = 8;
/** As in the style sheet. */
const narrow = matchMedia("(max-width: 900px)");

function useIsNarrow(): boolean {
  const [isNarrow, setNarrow] = useState(narrow.matches);
  useEffect(() => {
    const update = () => setNarrow(narrow.matches);
    narrow.addEventListener("change", update);
    return () => narrow.removeEventListener("change", update);
  }, []);
  return isNarrow;
}

export function VirtualTable<T extends { id: string }>({
  items,
  height: wideHeight,
  narrowHeight,
  columns,
  label,
  render,
  rowClass,
  nearEnd,
}: {
  items: T[];
  /** Of a row, in pixels. */
  height: number;
  narrowHeight: number;
  columns: ComponentChildren;
  label: string;
  render: (item: T, index: number) => ComponentChildren;
  rowClass?: (item: T, index: number) => string;
  nearEnd?: () => void;
}) {
  const height = useIsNarrow() ? narrowHeight : wideHeight;
  const body = useRef<HTMLDivElement>(null);
  const [visible, setVisible] = useState({ first: 0, last: 40 });
  useEffect(() => {
    const measure = () => {
      const top = -(body.current?.getBoundingClientRect().top ?? 0);
      const first = Math.max(0, Math.floor(top / height) - OVERSCAN_ROWS);
      const last = Math.ceil((top + innerHeight) / height) + OVERSCAN_ROWS;
      setVisible((old) => (old.first === first && old.last === last ? old : { first, last }));
    };
    measure();
    addEventListener("scroll", measure, { passive: true });
    addEventListener("resize", measure);
    return () => {
      removeEventListener("scroll", measure);
      removeEventListener("resize", measure);
    };
  }, [height, items.length]);
  // After every render: a page that brings no new items, because a stream brought them before, must not be the last.
  useEffect(() => {
    if (visible.last >= items.length) nearEnd?.();
  });
  const shown = items.slice(visible.first, visible.last);
  return (
    <div class="rows" role="table" aria-label={label} aria-rowcount={items.length + 1}>
      <div class="cells head" role="row" aria-rowindex={1}>
        {columns}
      </div>
      <div ref={body} role="rowgroup" style={{ height: `${items.length * height}px`, position: "relative" }}>
        {shown.map((item, offset) => {
          const index = visible.first + offset;
          return (
            <div
              key={item.id} // by place, an item would get the state of the one that was there before
              class={`cells ${rowClass?.(item, index) ?? ""}`}
              role="row"
              aria-rowindex={index + 2}
              style={{ position: "absolute", top: `${index * height}px`, height: `${height}px`, left: 0, right: 0 }}
            >
              {render(item, index)}
            </div>
          );
        })}
      </div>
    </div>
  );
}

export const ColumnHeader = ({ children }: { children?: ComponentChildren }) => (
  <div role="columnheader">{children}</div>
);
export const Cell = ({ children, name }: { children?: ComponentChildren; name?: string }) => (
  <div role="cell" class={name}>
    {children}
  </div>
);
