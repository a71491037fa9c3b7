// Shows the problems of a form at their fields, and those without a field in a list.
import { type ComponentChildren, createContext } from "preact";
import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ownerOf, type Problem, plainMessage } from "../formProblems";

interface Shown {
  byPath: ReadonlyMap<string, string>;
  register: (path: string) => () => void;
}

const Context = createContext<Shown>({ byPath: new Map(), register: () => () => undefined });

/** The problem of the field at a path of the request; a field without a path has none. */
export function useProblem(path: string | undefined): string | undefined {
  const { byPath, register } = useContext(Context);
  useLayoutEffect(() => (path === undefined ? undefined : register(path)), [path]);
  return path === undefined ? undefined : byPath.get(path);
}

/**
 * A form's content. Its fields with a `path` show their own problems, and `rest` receives the others. When `focusOn`
 * changes, the first field with a problem gets the focus.
 */
export function FormErrors(props: {
  problems: readonly Problem[];
  focusOn?: unknown;
  rest: (problems: Problem[]) => ComponentChildren;
  children: ComponentChildren;
}) {
  const { problems, focusOn, rest, children } = props;
  const counts = useRef(new Map<string, number>());
  const end = useRef<HTMLSpanElement>(null);
  const [version, setVersion] = useState(0);
  const register = useMemo(
    () => (path: string) => {
      const add = (change: number) => {
        const count = (counts.current.get(path) ?? 0) + change;
        if (count) counts.current.set(path, count);
        else counts.current.delete(path);
        setVersion((old) => old + 1);
      };
      add(1);
      return () => add(-1);
    },
    [],
  );
  const { byPath, others } = useMemo(() => {
    const placed = new Map<string, string>();
    const unplaced: Problem[] = [];
    for (const problem of problems) {
      const owner = ownerOf(problem.param, counts.current.keys());
      if (owner === null) unplaced.push(problem);
      else if (!placed.has(owner)) placed.set(owner, plainMessage(problem.message, problem.param));
    }
    return { byPath: placed, others: unplaced };
  }, [problems, version]);
  useEffect(() => {
    const form = end.current?.closest("form");
    if (focusOn && form) focusFirstProblem(form);
  }, [focusOn]);
  const shown = useMemo(() => ({ byPath, register }), [byPath]);
  return (
    <Context.Provider value={shown}>
      {children}
      {rest(others)}
      <span ref={end} hidden />
    </Context.Provider>
  );
}

/** Focuses the first field with a problem, and opens the sections around it; returns whether there is one. */
export function focusFirstProblem(form: HTMLElement): boolean {
  const first = form.querySelector<HTMLElement>('[aria-invalid="true"]');
  for (let around = first?.parentElement; around && around !== form; around = around.parentElement)
    if (around instanceof HTMLDetailsElement) around.open = true;
  first?.focus();
  return first !== null;
}
