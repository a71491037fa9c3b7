// Charts in sections that open and close, with the user's pinned charts first. Each browser stores the user's choices.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ChartSection, ChartSpec } from "../chartSpecs";
import type { ChartChoices } from "./Chart";

const KEY = "grouptune-charts";

/** Titles of charts, and of the sections that are closed instead of open or open instead of closed. */
interface Choices {
  pinned: string[];
  log: string[];
  toggled: string[];
}

function load(): Choices {
  const none: Choices = { pinned: [], log: [], toggled: [] };
  try {
    return { ...none, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Choices>) };
  } catch {
    return none; // unreadable choices are replaced by the next ones
  }
}

interface SectionsProps {
  sections: ChartSection[];
  panel: (spec: ChartSpec, choices: ChartChoices) => ComponentChildren;
}

export function ChartSections({ sections, panel }: SectionsProps) {
  const [choices, setChoices] = useState(load);
  const place = useRef<HTMLDivElement>(null);
  const moved = useRef<string>();
  const toggle = (list: keyof Choices, title: string) => {
    const old = choices[list];
    const next = {
      ...choices,
      [list]: old.includes(title) ? old.filter((other) => other !== title) : [...old, title],
    };
    localStorage.setItem(KEY, JSON.stringify(next));
    setChoices(next);
  };
  // A chart that is pinned moves to another section, and its button keeps the focus.
  useEffect(() => {
    const button = place.current?.querySelector<HTMLElement>(`[data-pin="${CSS.escape(moved.current ?? "")}"]`);
    moved.current = undefined;
    button?.focus({ preventScroll: true });
  }, [choices.pinned]);
  const draw = (spec: ChartSpec) =>
    panel(spec, {
      isLog: choices.log.includes(spec.title),
      toggleLog: () => toggle("log", spec.title),
      isPinned: choices.pinned.includes(spec.title),
      togglePin: () => {
        moved.current = spec.title;
        toggle("pinned", spec.title);
      },
    });
  const all = sections.flatMap(({ charts }) => charts);
  const pinned = choices.pinned.flatMap((title) => all.filter((spec) => spec.title === title));
  return (
    <div ref={place}>
      {pinned.length > 0 && (
        <section aria-label="Pinned charts">
          <h2>Pinned</h2>
          <div class="charts">{pinned.map(draw)}</div>
        </section>
      )}
      {sections.map(({ title, isOpen, charts }) => {
        const unpinned = charts.filter((spec) => !choices.pinned.includes(spec.title));
        if (!unpinned.length) return null;
        const isShown = choices.toggled.includes(title) !== isOpen;
        return (
          <details key={title} class="section" open={isShown}>
            <summary
              onClick={(event) => {
                event.preventDefault(); // the browser's own event for this comes later, perhaps after the page has gone
                toggle("toggled", title);
              }}
            >
              <h2>{title}</h2> <small>{unpinned.length}</small>
            </summary>
            {isShown && <div class="charts">{unpinned.map(draw)}</div>}
          </details>
        );
      })}
    </div>
  );
}
