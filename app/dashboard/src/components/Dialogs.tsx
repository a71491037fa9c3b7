// Dialogs over the page: questions, the command palette, the keys.
import type { ComponentChildren } from "preact";
import { useLocation } from "preact-iso";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, JOBS } from "../api";
import type { Job, Page } from "../types";

export function Dialog({
  title,
  close,
  children,
}: {
  title: string;
  close: () => void;
  children: ComponentChildren;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  // Before the next key is handled: what is typed right after the shortcut belongs to the dialog.
  useLayoutEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onClose={close}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <div class="dialog">{children}</div>
    </dialog>
  );
}

/** Asks before something that cannot be undone. */
export function Confirm({
  title,
  text,
  action,
  act,
  close,
}: {
  title: string;
  text: string;
  action: string;
  act: () => void;
  close: () => void;
}) {
  return (
    <Dialog title={title} close={close}>
      <h2>{title}</h2>
      <p>{text}</p>
      <div class="row end">
        <button type="button" onClick={close}>
          Keep it
        </button>
        <button
          type="button"
          class="danger"
          onClick={() => {
            act();
            close();
          }}
        >
          {action}
        </button>
      </div>
    </Dialog>
  );
}

const PLACES = [
  ["Jobs", "/ui/"],
  ["New job", "/ui/new"],
  ["Files", "/ui/files"],
  ["Models", "/ui/models"],
  ["API keys", "/ui/keys"],
  ["Audit log", "/ui/audit"],
] as const;

export function Palette({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const [jobs, setJobs] = useState<Job[]>([]);
  const { route } = useLocation();
  useEffect(() => {
    get<Page<Job>>(`${JOBS}?limit=100`).then(
      (page) => setJobs(page.data),
      () => setJobs([]),
    );
  }, []);
  const found = useMemo(() => {
    const places = PLACES.map(([name, path]) => ({ name, path, note: "" }));
    const named = jobs.map((job) => ({
      name: `${job.user_provided_suffix ?? job.model}`,
      path: `/ui/jobs/${job.id}`,
      note: `${job.id} · ${job.status}`,
    }));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return [...places, ...named]
      .filter((one) => words.every((word) => `${one.name} ${one.note}`.toLowerCase().includes(word)))
      .slice(0, 10);
  }, [text, jobs]);
  const go = (path: string) => {
    close();
    route(path);
  };
  const press = (event: KeyboardEvent) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) setChosen((old) => (old + move + found.length) % Math.max(1, found.length));
    else if (event.key === "Enter" && found[chosen]) go(found[chosen].path);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Go to" close={close}>
      <input
        class="wide"
        aria-label="Go to a page or a job"
        placeholder="Go to a page or a job"
        role="combobox"
        aria-expanded="true"
        aria-controls="palette"
        aria-activedescendant={found[chosen] ? `palette-${chosen}` : undefined}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={press}
      />
      <ul id="palette" class="palette" role="listbox" aria-label="Pages and jobs">
        {found.map((one, index) => (
          <li
            key={one.path}
            id={`palette-${index}`}
            role="option"
            aria-selected={index === chosen}
            onClick={() => go(one.path)}
          >
            <span>{one.name}</span> <small>{one.note}</small>
          </li>
        ))}
      </ul>
      {!found.length && <p>Nothing is called so.</p>}
    </Dialog>
  );
}

const HELP = [
  ["/", "Find"],
  ["j  k", "Next, previous row"],
  ["Enter", "Open"],
  ["x", "Select"],
  ["n", "New job"],
  ["←  →", "Previous, next step (groups)"],
  ["Ctrl K", "Go to a page or a job"],
  ["?", "This list"],
] as const;

export function Help({ close }: { close: () => void }) {
  return (
    <Dialog title="Keys" close={close}>
      <h2>Keys</h2>
      <dl class="keys">
        {HELP.map(([key, text]) => (
          <>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </>
        ))}
      </dl>
      <div class="row end">
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
